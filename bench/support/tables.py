"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def table(title: str, headings: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers.

    :param headings: rows of headings; the title stands at the left of the first one.
    """
    lines = [[title if not number else "", *heading] for number, heading in enumerate(headings)]
    lines += [list(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    written = [_line(line, widths) for line in lines]
    written.insert(len(headings), "-" * max(map(len, written)))
    return "\n".join(written)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()
