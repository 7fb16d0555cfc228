"""News that other processes are told, by way of the log of commits (`sharing.py`).

News is a frozen dataclass. One whose fields are plain is marked `@for_others`, and written and read field by field. One
that carries what the others have to read themselves says how: `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from synapse_like.storage.database import Transaction

News = TypeVar("News")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How news of one kind is written (as JSON can say it), and read: several at once, in their order."""

    write: Callable[[Any], Any]
    read: Callable[[Transaction, Sequence[Any]], Sequence[object]]


_kinds: dict[str, _Kind] = {}


def register(
    kind: type[News], write: Callable[[News], Any], read: Callable[[Transaction, Sequence[Any]], Sequence[object]]
) -> None:
    """Say how news of a kind is written, and read again from the log."""
    _kinds[kind.__name__] = _Kind(write, read)


def for_others(kind: type[News]) -> type[News]:
    """Mark a dataclass of plain fields as news for other processes."""

    def read(_: Transaction, written: Sequence[Any]) -> list[News]:
        return [adapter().validate_python(one) for one in written]

    @cache
    def adapter() -> TypeAdapter[Any]:
        # Made with the first news: a process that is alone needs none.
        from pydantic import TypeAdapter

        return TypeAdapter(kind)

    register(kind, lambda news: adapter().dump_python(news, mode="json"), read)
    return kind


def to_log(news: object) -> list[Any]:
    """News, as it stands in the log.

    :raises LookupError: it is not for others.
    """
    name = type(news).__name__
    return [name, _kinds[name].write(news)]


def from_log(txn: Transaction, written: Sequence[Sequence[Any]]) -> Iterator[object]:
    """News, as it stood in the log, in the same order."""
    by_kind: dict[str, list[Any]] = {}
    for name, one in written:
        by_kind.setdefault(name, []).append(one)
    found = {name: iter(_kinds[name].read(txn, several)) for name, several in by_kind.items()}
    return (next(found[name]) for name, _ in written)
