"""Writes docs/membership.md from the tables in the code: `python -m tests.protocol.membership_table`."""

import sys
from collections.abc import Callable, Iterator
from inspect import getdoc
from pathlib import Path

from synapse_like.protocol.membership import LAWS, Law, Transition

OPENING = """\
# Who may come, go, invite, kick, ban and knock

These are the tables by which `synapse_like/protocol/membership.py` decides, written out by
`python -m tests.protocol.membership_table`. A change that has no row is refused; a row without conditions always
holds. `none` is a user who never had a membership in the room.
"""

TITLES = {
    "one-event-per-level": "Rooms of `spec-2014` (MEM-1 to MEM-4)",
    "power-levels-event": "Rooms of the Matrix room versions 1 to 12",
}


def document() -> str:
    """The whole file."""
    return OPENING + "".join(line for family, title in TITLES.items() for line in _section(title, LAWS[family]))


def _section(title: str, law: Law) -> Iterator[str]:
    yield f"\n## {title}\n\n"
    for settles in law.beforehand:
        yield f"- Allowed before the table is asked: {_sentence(settles)}\n"
    if law.beforehand:
        yield "\n"
    yield "| from | to | by | if |\n| --- | --- | --- | --- |\n"
    for row in law.transitions:
        yield _row(row)


def _row(row: Transition) -> str:
    conditions = " ".join(_sentence(condition) for condition in row.conditions)
    return f"| {', '.join(row.before)} | {row.after} | {row.by.value} | {conditions} |\n"


def _sentence(function: Callable[..., object]) -> str:
    return " ".join((getdoc(function) or "").split())


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/membership.md").write_text(document())
