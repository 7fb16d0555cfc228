"""Policy servers, which the operator has asked before things happen (POL-1).

What they refuse to our own users is refused with their reason. What other servers send cannot be refused in that way:
their messages are soft-failed, which the other servers do not notice; see docs/decisions/0021-policy-servers.md.

Nothing here runs on the thread that writes, and no room waits for another. All policy servers of a hook are asked at
the same time; what is asked about is allowed if all of them allow it. One that does not answer in time allows all or
nothing, as the settings say (`on_failure`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from synapse_like.background import all_of
from synapse_like.config import PolicyHook
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.policy_client import PolicyClient, PolicyVerdict
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Forbidden
from synapse_like.protocol.events import Event
from synapse_like.protocol.membership import INVITE
from synapse_like.storage import retransmissions
from synapse_like.storage.database import Database
from synapse_like.storage.retransmissions import Once
from synapse_like.storage.state import MEMBER

REGISTRATION: PolicyHook = "registration"
INVITES: PolicyHook = "invites"
ROOM_CREATION: PolicyHook = "room_creation"
LOCAL_SENDS: PolicyHook = "local_sends"
REMOTE_SENDS: PolicyHook = "remote_sends"
REDACTION = "m.room.redaction"
#: Events of others that are asked about at the same time.
AT_ONCE = 50

_log = get_logger(__name__)


class Policy:
    """Asks them.

    :param clients: one for each, in the order of the settings.
    :param server_name: whose users' invites are asked about.
    """

    def __init__(self, database: Database, clients: Sequence[PolicyClient], server_name: str) -> None:
        self._server_name = server_name
        self._database = database
        self._clients = clients

    def asks(self, hook: PolicyHook) -> bool:
        """Whether anybody is to be asked at some point."""
        return any(hook in client.settings.hooks for client in self._clients)

    async def check(self, hook: PolicyHook, request: Once | None = None, **question: Any) -> None:
        """See that nobody minds.

        :param request: by which the client asks; what was done already is not asked about again.
        :param question: what there is to know.
        :raises Forbidden: somebody does.
        """
        if not self.asks(hook):
            return
        if (
            request is not None
            and request.request is not None
            and await self._database.read("was-done", retransmissions.was_done, request)
        ):
            return
        verdict = await self._ask(hook, question)
        if not verdict.is_allowed:
            _log.info("a policy server refuses", hook=hook, user_id=question.get("user_id"), reason=verdict.reason)
            raise Forbidden(verdict.reason or "The policy of this server does not allow this.")

    async def welcomes(self, found: Sequence[Event]) -> list[bool]:
        """Whether events of other servers are to be shown here: messages, and invites of our users, are asked about."""
        welcome = [True] * len(found)
        hooks = {number: hook for number, event in enumerate(found) if (hook := self._hook_of(event)) is not None}
        asked = list(hooks)
        for start in range(0, len(asked), AT_ONCE):
            part = asked[start : start + AT_ONCE]
            verdicts = await all_of(
                [
                    Deferred.fromCoroutine(self._ask(hooks[number], about(hooks[number], found[number])))
                    for number in part
                ]
            )
            for number, verdict in zip(part, verdicts, strict=True):
                welcome[number] = verdict.is_allowed
                if not verdict.is_allowed:
                    event_id = found[number].event_id
                    _log.info("a policy server refuses an event", event_id=event_id, reason=verdict.reason)
        return welcome

    def _hook_of(self, event: Event) -> PolicyHook | None:
        """Where an event of another server is asked about; None if it is not."""
        hook = None
        if not event.is_state and event.type != REDACTION:
            hook = REMOTE_SENDS
        elif event.type == MEMBER and event.content.get("membership") == INVITE and self._is_ours(event):
            hook = INVITES
        return hook if hook is not None and self.asks(hook) else None

    def _is_ours(self, invite: Event) -> bool:
        return (invite.state_key or "").endswith(f":{self._server_name}")

    async def _ask(self, hook: PolicyHook, question: Mapping[str, Any]) -> PolicyVerdict:
        clients = [client for client in self._clients if hook in client.settings.hooks]
        asking = [Deferred.fromCoroutine(_ask_one(client, {**question, "hook": hook})) for client in clients]
        verdicts: list[PolicyVerdict] = await all_of(asking)
        return next((verdict for verdict in verdicts if not verdict.is_allowed), PolicyVerdict(True))


async def _ask_one(client: PolicyClient, question: dict[str, Any]) -> PolicyVerdict:
    try:
        return await client.ask(question)
    except ServerUnreachable as error:
        on_failure = client.settings.on_failure
        _log.warning("a policy server does not answer", url=client.settings.url, reason=error.reason, then=on_failure)
        return PolicyVerdict(on_failure == "open", "The policy of this server cannot be asked at the moment.")


def about(hook: PolicyHook, event: Event) -> dict[str, Any]:
    """What a policy server is told at a hook of an event of another server."""
    if hook == INVITES:
        return {
            "user_id": event.sender,
            "room_id": event.room_id,
            "target": event.state_key,
            "content": event.content,
        }
    return {
        "user_id": event.sender,
        "room_id": event.room_id,
        "event": {"event_id": event.event_id, "type": event.type, "content": event.content},
    }


def about_own(user_id: str, room_id: str, event_type: str, content: Mapping[str, Any], state_key: str | None) -> Any:
    """The same of one that a user of ours wants to send."""
    shown = {"type": event_type, "content": content} | ({} if state_key is None else {"state_key": state_key})
    return {"user_id": user_id, "room_id": room_id, "event": shown}
