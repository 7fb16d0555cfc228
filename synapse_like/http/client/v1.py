"""API v1, as a table: `/_matrix/client/api/v1` (API-1).

Every POST that changes something stands a second time as a PUT with a transaction ID (API-4, API-5); `_both` writes the
two rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.http.client.accounts import (
    AccountEndpoints,
    ChangePasswordBody,
    LinkBody,
    ResetBody,
    UnlinkBody,
)
from synapse_like.http.client.contacts import MOST_SENT, ContactEndpoints
from synapse_like.http.client.history import HistoryEndpoints
from synapse_like.http.client.membership import MembershipEndpoints, TargetBody
from synapse_like.http.client.messages import MessageEndpoints
from synapse_like.http.client.presence import ListBody, PresenceEndpoints, StatusBody
from synapse_like.http.client.profile import ProfileEndpoints
from synapse_like.http.client.rooms import AliasBody, CreateRoomBody, RoomEndpoints
from synapse_like.http.client.third_party_ids import InviteBody, ThirdPartyIdEndpoints
from synapse_like.http.client.typing import TypingBody, TypingEndpoints
from synapse_like.http.client.unwanted import IgnoredBody, PolicyBody, UnwantedEndpoints
from synapse_like.http.client.voip import VoipEndpoints
from synapse_like.http.requests import Body, Call
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.models import Model

PREFIX = "/_matrix/client/api/v1"

Endpoint = Callable[[Call[Requester]], Awaitable[object]]

#: What a client finds as long as there are no push rules (EVS-10).
NO_PUSH_RULES: dict[str, dict[str, list[object]]] = {
    "global": {"override": [], "content": [], "room": [], "sender": [], "underride": []}
}


async def push_rules(call: Call[Requester]) -> object:
    """The push rules of the user: none."""
    return NO_PUSH_RULES


def mount_v1(
    accounts: AccountEndpoints,
    rooms: RoomEndpoints,
    membership: MembershipEndpoints,
    messages: MessageEndpoints,
    history: HistoryEndpoints,
    profile: ProfileEndpoints,
    voip: VoipEndpoints,
    typing: TypingEndpoints,
    presence: PresenceEndpoints,
    third_party_ids: ThirdPartyIdEndpoints,
    unwanted: UnwantedEndpoints,
    contacts: ContactEndpoints,
) -> Mount[Requester]:
    """The whole dialect."""
    routes: list[Route[Requester]] = [
        Route("GET", "/register", accounts.register_flows, auth=Auth.NONE, rate="read"),
        # How often one may do these depends on whether one begins: that the endpoints see to.
        Route("POST", "/register", accounts.register, auth=Auth.NONE, body=Body.OBJECT),
        Route("GET", "/login", accounts.login_flows, auth=Auth.NONE, rate="read"),
        Route("POST", "/login", accounts.login, auth=Auth.NONE, body=Body.OBJECT),
        # Without transaction IDs: they are told apart by the token that this ends.
        Route("POST", "/logout", accounts.log_out, rate="send"),
        Route("POST", "/logout/all", accounts.log_out_everywhere, rate="send"),
        # Nor have these any: to do them a second time is refused or does no harm.
        Route("POST", "/login/reset", accounts.ask_for_reset, auth=Auth.NONE, rate="login", body=ResetBody),
        Route("POST", "/account/password", accounts.change_password, rate="send", body=ChangePasswordBody),
        Route("GET", "/account/3pid", third_party_ids.addresses, rate="read"),
        Route("POST", "/account/3pid", third_party_ids.add, rate="send", body=Body.OBJECT),
        Route("POST", "/account/3pid/delete", third_party_ids.delete, rate="send", body=Body.OBJECT),
        Route("GET", "/account/3pid/lookup", third_party_ids.lookup, rate="read"),
        Route("GET", "/account/oauth2", accounts.identities, rate="read"),
        Route("POST", "/account/oauth2", accounts.link_identity, rate="send", body=LinkBody),
        Route("POST", "/account/oauth2/delete", accounts.unlink_identity, rate="send", body=UnlinkBody),
        Route("GET", "/account/ignored_users", unwanted.ignored, rate="read"),
        Route("PUT", "/account/ignored_users", unwanted.ignore, rate="send", body=IgnoredBody),
        Route("GET", "/account/invite_policy", unwanted.policy, rate="read"),
        Route("PUT", "/account/invite_policy", unwanted.set_policy, rate="send", body=PolicyBody),
        Route("GET", "/contacts", contacts.all, rate="read"),
        *_both("/contacts", contacts.add, Body.RAW, max_body=MOST_SENT),
        Route("DELETE", "/contacts", contacts.delete_all, rate="send"),
        Route("GET", "/contacts/{contact_id}", contacts.one, rate="read"),
        *_both("/contacts/{contact_id}", contacts.change, Body.RAW),
        Route("DELETE", "/contacts/{contact_id}", contacts.delete, rate="send"),
        *_both("/createRoom", rooms.create, CreateRoomBody, rate="creations"),
        Route("GET", "/publicRooms", rooms.public, auth=Auth.NONE, rate="read"),
        Route("GET", "/directory/room/{alias}", rooms.resolve_alias, auth=Auth.NONE, rate="read"),
        Route("PUT", "/directory/room/{alias}", rooms.add_alias, rate="send", body=AliasBody),
        Route("DELETE", "/directory/room/{alias}", rooms.delete_alias, rate="send"),
        *_both("/join/{room}", membership.join, rate="joins"),
        *_both("/rooms/{room}/join", membership.join, rate="joins"),
        *_both("/rooms/{room}/leave", membership.leave),
        *_both("/rooms/{room}/invite", third_party_ids.invite, InviteBody, rate="invites"),
        *_both("/rooms/{room}/kick", membership.kick, TargetBody),
        *_both("/rooms/{room}/ban", membership.ban, TargetBody),
        *_both("/rooms/{room}/unban", membership.unban, TargetBody),
        *_both("/rooms/{room}/send/{type}", messages.send),
        *_both("/rooms/{room}/redact/{event_id}", messages.redact),
        Route("PUT", "/rooms/{room}/state/{type}", messages.set_state, rate="send", body=Body.OBJECT),
        Route("PUT", "/rooms/{room}/state/{type}/{state_key}", messages.set_state, rate="send", body=Body.OBJECT),
        Route("PUT", "/rooms/{room}/typing/{user}", typing.set, rate="send", body=TypingBody),
        Route("GET", "/rooms/{room}/state", history.state, rate="read"),
        Route("GET", "/rooms/{room}/state/{type}", history.state_content, rate="read"),
        Route("GET", "/rooms/{room}/state/{type}/{state_key}", history.state_content, rate="read"),
        Route("GET", "/rooms/{room}/members", history.members, rate="read"),
        Route("GET", "/rooms/{room}/messages", history.messages, rate="read"),
        Route("GET", "/rooms/{room}/initialSync", history.room_initial_sync, rate="read"),
        Route("GET", "/initialSync", history.initial_sync, rate="read"),
        Route("GET", "/events", history.events, rate="read", cancellable=True),
        Route("GET", "/events/{event_id}", history.event, rate="read"),
        Route("GET", "/profile/{user_id}", profile.whole, auth=Auth.OPTIONAL, rate="read"),
        Route("GET", "/profile/{user_id}/{field}", profile.field, auth=Auth.OPTIONAL, rate="read"),
        Route("PUT", "/profile/{user_id}/{field}", profile.set, rate="send", body=Body.OBJECT),
        Route("DELETE", "/profile/{user_id}/{field}", profile.delete, rate="send"),
        Route("GET", "/voip/turnServer", voip.turn_server, rate="read"),
        Route("GET", "/presence/{user}/status", presence.status, rate="read"),
        Route("PUT", "/presence/{user}/status", presence.set_status, rate="send", body=StatusBody),
        Route("GET", "/presence/list", presence.list, rate="read"),
        Route("GET", "/presence/list/{user}", presence.list, rate="read"),
        *_both("/presence/list", presence.change_list, ListBody),
        *_both("/presence/list/{user}", presence.change_list, ListBody),
        Route("GET", "/pushrules/", push_rules, rate="read"),
    ]
    return Mount(PREFIX, routes, cors=True)


def _both(
    path: str, endpoint: Endpoint, body: Body | type[Model] = Body.OBJECT, rate: str = "send", **options: Any
) -> tuple[Route[Requester], Route[Requester]]:
    """A POST, and the same as an idempotent PUT with a transaction ID."""
    return (
        Route("POST", path, endpoint, rate=rate, body=body, **options),
        Route("PUT", f"{path}/{{txn_id}}", endpoint, rate=rate, body=body, idempotent=True, **options),
    )
