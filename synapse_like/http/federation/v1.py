"""What other servers may ask for, as tables: `/_matrix/federation/v1`, and what is in version 2 (FED-1).

The paths that the specification of 2014 ends with a slash are there without it, too.
"""

from __future__ import annotations

from typing import Any

from synapse_like.http.federation.rooms import Endpoint, FederatedRoomEndpoints, InviteBody, MissingEventsBody
from synapse_like.http.requests import Body
from synapse_like.http.routing import Mount, Route
from synapse_like.models import Model

PREFIX = "/_matrix/federation/v1"
PREFIX_V2 = "/_matrix/federation/v2"

#: The classes of rate limits for the steps by which users come and go.
JOINS, INVITES = "federation_joins", "federation_invites"

#: Bytes of a transaction at the most: fifty events of 64 KiB, and a hundred EDUs.
MOST_TRANSACTION_BYTES = 8 * 1024 * 1024


def mount_federation(rooms: FederatedRoomEndpoints) -> list[Mount[str]]:
    """All of it."""
    routes: list[Route[str]] = [
        *_slashed("PUT", "/send/{txn_id}", rooms.send, body=Body.OBJECT, max_body=MOST_TRANSACTION_BYTES),
        *_slashed("GET", "/pdu/{origin}/{pdu_id}", rooms.pdu),
        Route("GET", "/event/{event_id}", rooms.event, rate="federation"),
        *_slashed("GET", "/state/{room}", rooms.state),
        *_slashed("GET", "/state_ids/{room}", rooms.state_ids),
        Route("GET", "/event_auth/{room}/{event_id}", rooms.event_auth, rate="federation"),
        *_slashed("GET", "/backfill/{room}", rooms.backfill),
        *_slashed("GET", "/pull", rooms.pull),
        *_slashed("GET", "/query/{kind}", rooms.query),
        Route("POST", "/get_missing_events/{room}", rooms.missing_events, rate="federation", body=MissingEventsBody),
        Route("GET", "/make_join/{room}/{user_id}", rooms.make("join"), rate=JOINS),
        Route("GET", "/make_leave/{room}/{user_id}", rooms.make("leave"), rate=JOINS),
        Route("GET", "/make_knock/{room}/{user_id}", rooms.make("knock"), rate=JOINS),
        _put("/send_join/{room}/{event_id}", rooms.take("join", version=1)),
        _put("/send_leave/{room}/{event_id}", rooms.take("leave", version=1)),
        _put("/send_knock/{room}/{event_id}", rooms.take("knock", version=2)),
        _put("/invite/{room}/{event_id}", rooms.invite_by_version_1, rate=INVITES),
    ]
    second = [
        _put("/send_join/{room}/{event_id}", rooms.take("join", version=2)),
        _put("/send_leave/{room}/{event_id}", rooms.take("leave", version=2)),
        _put("/invite/{room}/{event_id}", rooms.invite, InviteBody, rate=INVITES),
    ]
    return [Mount(PREFIX, routes), Mount(PREFIX_V2, second)]


def _put(path: str, endpoint: Endpoint, body: Body | type[Model] = Body.OBJECT, rate: str = JOINS) -> Route[str]:
    return Route("PUT", path, endpoint, rate=rate, body=body)


def _slashed(method: str, path: str, endpoint: Endpoint, **options: Any) -> tuple[Route[str], Route[str]]:
    """A route, and the same with a slash at its end."""
    return (
        Route(method, path, endpoint, rate="federation", **options),
        Route(method, f"{path}/", endpoint, rate="federation", **options),
    )
