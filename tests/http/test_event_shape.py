"""Events on their way to a client, where the usual encoder does not do."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest.mock import AsyncMock, Mock

from synapse_like.http.client.event_shape import event_v1
from synapse_like.http.client.history import HistoryEndpoints
from synapse_like.http.responses import render
from synapse_like.protocol.events import Event
from synapse_like.storage.events import StoredEvent

#: Room versions 1 to 5 allow it, and orjson cannot write it.
HUGE = 2**70 + 1


def shown(answer: object) -> Any:
    _, _, body = render(answer, cors=True)
    return json.loads(body)


def test_event_with_an_integer_beyond_64_bits_is_shown() -> None:
    event = Event(
        event_id="$1:there",
        room_id="!room:there",
        type="org.example.count",
        sender="@bob:there",
        content={"count": HUGE},
        origin_server_ts=1,
        depth=1,
        prev_events=(),
        auth_events=(),
    )
    answer = {"chunk": [event_v1(StoredEvent(1, 1, 1, event), now_ms=11)]}
    assert shown(answer)["chunk"][0]["content"] == {"count": HUGE}
    assert shown(answer)["chunk"][0]["age"] == 10


def test_piece_of_state_with_an_integer_beyond_64_bits_is_shown() -> None:
    history = Mock(state_content=AsyncMock(return_value={"count": HUGE}))
    endpoints = HistoryEndpoints(history, Mock(), Mock(), Mock(), longest_poll_ms=0)
    call = Mock(params={"room": "!room:there", "type": "org.example.count"})
    assert shown(asyncio.run(endpoints.state_content(call))) == {"count": HUGE}
