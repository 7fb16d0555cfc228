"""Tokens: where a client stands in what it reads.

A token is opaque to clients. It holds one position per stream; today there is one stream, events: ``s123``. A token
stands *after* its position: everything up to it has been seen.

A page of a room's history may end among events that were fetched later and stand between two positions. Such a token
says how many places before its position it stands: ``s123-4``. The event stream starts at positions only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from synapse_like.protocol.errors import BadPagination
from synapse_like.storage.events import GAP

_FORM = re.compile(r"s(0|[1-9][0-9]{0,12})(?:-([1-9][0-9]{0,6}))?")


@dataclass(frozen=True, slots=True)
class StreamToken:
    """A place in the streams.

    :ivar events: position in the stream of events.
    :ivar before: how many places before that it stands in a room's timeline.
    """

    events: int
    before: int = 0

    def __str__(self) -> str:
        return f"s{self.events}-{self.before}" if self.before else f"s{self.events}"

    @property
    def place(self) -> int:
        """The place in a room's timeline."""
        return self.events * GAP - self.before

    @classmethod
    def at(cls, place: int) -> StreamToken:
        """The token of a place in a room's timeline."""
        position = -(-place // GAP)
        return cls(position, position * GAP - place)

    @classmethod
    def parse(cls, text: str, *, newest: int) -> StreamToken:
        """Read a token that this server has given out.

        :param newest: the newest position there is.
        :raises BadPagination: it is not one.
        """
        match = _FORM.fullmatch(text)
        if match is None or int(match[1]) > newest or int(match[2] or 0) >= GAP or (match[2] and match[1] == "0"):
            raise BadPagination("This token was not given out by this server.")
        return cls(int(match[1]), int(match[2] or 0))
