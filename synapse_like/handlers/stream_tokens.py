"""Tokens: where a client stands in what it reads.

A token is opaque to clients. It holds one position per stream: ``s123_45_6`` for events, presence and typing. A token
stands *after* its positions: everything up to them has been seen. ``s123`` is short for ``s123_0_0``: its client has
been told of events only.

A page of a room's history may end among events that were fetched later and stand between two positions. Such a token
says how many places before its position it stands: ``s123-4``. The event stream starts at positions only.
"""

from __future__ import annotations

import re

from msgspec import Struct

from synapse_like.protocol.errors import BadPagination
from synapse_like.storage.events import GAP

_NUMBER = "(0|[1-9][0-9]{0,17})"
_FORM = re.compile(rf"s(0|[1-9][0-9]{{0,12}})(?:-([1-9][0-9]{{0,6}})|_{_NUMBER}_{_NUMBER})?")


class StreamToken(Struct, frozen=True):
    """A place in the streams.

    :ivar events: position in the stream of events.
    :ivar before: how many places before that it stands in a room's timeline.
    :ivar presence: position in the stream of presence; 0 if nothing was told of it yet.
    :ivar typing: position in the stream of typing; 0 if, as far as the client knows, nobody types.
    """

    events: int
    before: int = 0
    presence: int = 0
    typing: int = 0

    def __str__(self) -> str:
        if self.presence or self.typing:
            return f"s{self.events}_{self.presence}_{self.typing}"
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

        :param newest: the newest position of the stream of events.
        :raises BadPagination: it is not one.
        """
        match = _FORM.fullmatch(text)
        if match is None or int(match[1]) > newest or int(match[2] or 0) >= GAP or (match[2] and match[1] == "0"):
            raise BadPagination("This token was not given out by this server.")
        if match[3] == match[4] == "0":
            raise BadPagination("This token was not given out by this server.")
        return cls(int(match[1]), int(match[2] or 0), int(match[3] or 0), int(match[4] or 0))
