"""Presence: what one is, and whom one sees (PRES-2, PRES-3)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.presence_input import PresenceInput
from synapse_like.handlers.presence_lists import ListChange, PresenceLists
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.http.requests import Call
from synapse_like.models import Model
from synapse_like.protocol.errors import Forbidden

#: A month, in milliseconds: nobody is idle for longer.
LONGEST_IDLE = 31 * 24 * 3600 * 1000
#: What every database can store.
WITHOUT_NUL = r"^[^\x00]*$"


class StatusBody(Model, frozen=True):
    """What a user wants to be seen as; other keys are ignored."""

    presence: Literal["online", "unavailable", "offline", "free_for_chat", "hidden"]
    status_msg: Annotated[str, Meta(max_length=1000, pattern=WITHOUT_NUL)] | None = None
    idle: Annotated[int, Meta(ge=0, le=LONGEST_IDLE)] | None = None
    device_type: Annotated[str, Meta(max_length=50)] | None = None


class ListBody(Model, frozen=True):
    """What is to change of a presence list; other keys are ignored."""

    invite: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)


class PresenceEndpoints:
    """Status and lists.

    :param parts: None if the operator has turned presence off.
    """

    def __init__(
        self, parts: tuple[Presence, PresenceInput, PresenceLists] | None, retransmissions: Retransmissions
    ) -> None:
        self._parts = parts
        self._retransmissions = retransmissions

    def _on(self) -> tuple[Presence, PresenceInput, PresenceLists]:
        if self._parts is None:
            raise Forbidden("Presence is turned off on this server.")
        return self._parts

    async def status(self, call: Call[Requester]) -> object:
        """The presence of a user."""
        presence, _, _ = self._on()
        return await presence.status(call.requester, call.params["user"])

    async def set_status(self, call: Call[Requester]) -> object:
        """Say what one wants to be seen as."""
        _, comes_in, _ = self._on()
        body: StatusBody = call.body
        await comes_in.choose(
            call.requester,
            call.params["user"],
            body.presence,
            body.status_msg,
            idle_ms=body.idle,
            device_type=body.device_type,
        )
        return {}

    async def list(self, call: Call[Requester]) -> object:
        """Those whom one wants to see."""
        _, _, lists = self._on()
        return await lists.show(call.requester, call.params.get("user", call.requester.user_id))

    async def change_list(self, call: Call[Requester]) -> object:
        """Change whom one wants to see, and whom one lets see oneself."""
        _, _, lists = self._on()
        body: ListBody = call.body
        change = ListChange(body.invite, body.drop, body.accept, body.deny, body.groups)
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        await lists.change(call.requester, call.params.get("user", call.requester.user_id), change, request)
        return {}
