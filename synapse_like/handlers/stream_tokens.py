"""Tokens: where a client stands in what it reads.

A token is opaque to clients. It holds one position per stream; today there is one stream, events: ``s123``. A token
stands *after* its position: everything up to it has been seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from synapse_like.protocol.errors import BadPagination

_FORM = re.compile(r"s(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class StreamToken:
    """A place in the streams.

    :ivar events: position in the stream of events.
    """

    events: int

    def __str__(self) -> str:
        return f"s{self.events}"

    @classmethod
    def parse(cls, text: str, *, newest: int) -> StreamToken:
        """Read a token that this server has given out.

        :param newest: the newest position there is.
        :raises BadPagination: it is not one.
        """
        match = _FORM.fullmatch(text)
        if match is None or int(match[1]) > newest:
            raise BadPagination("This token was not given out by this server.")
        return cls(int(match[1]))
