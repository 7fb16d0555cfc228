"""The checks on an event from elsewhere that need no more than the event itself and its signers' keys.

The numbers are those of the steps by which an event is received; `event_reception` has the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from synapse_like.background import Slices
from synapse_like.federation.keyring import Keyring
from synapse_like.handlers.policy import Policy
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import BadJson, MatrixError
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.hashes import check_content_hash
from synapse_like.protocol.redaction import redact_pdu
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.wire_formats import encode_pdu, from_pdu, read_pdu
from synapse_like.storage.events import Standing

_log = get_logger(__name__)


class CheckedEvent(Struct, frozen=True):
    """An event that is what its origin said.

    :ivar pdu: as it is stored.
    :ivar is_welcome: whether the policy of this server lets it be shown.
    """

    rules: RoomRules
    event: Event
    pdu: bytes
    is_welcome: bool = True


class Verdict(Struct, frozen=True):
    """What became of an event.

    :ivar refusal: why it was rejected; None if it was not.
    """

    event_id: str
    refusal: str | None = None
    standing: Standing = Standing.ACCEPTED


class Lacking(Struct, frozen=True):
    """What must be here before an event can be judged.

    :ivar before: IDs of events right before it.
    :ivar auth: IDs of events that it rests on.
    """

    before: tuple[str, ...]
    auth: tuple[str, ...]


def read_foreign(rules: RoomRules, pdu: object) -> tuple[Event, Pdu]:
    """1. The format: the event that a stranger's PDU stands for, without what its senders added in passing.

    :raises BadJson: it is no PDU.
    :raises TooLarge: over 64 KiB.
    """
    if isinstance(pdu, dict) and "unsigned" in pdu:
        pdu = {name: value for name, value in pdu.items() if name != "unsigned"}
    event = from_pdu(rules, pdu)
    assert isinstance(pdu, dict)
    return event, pdu


class EventChecks:
    """Reads and checks events from elsewhere.

    :param slices: where it is done if they are many.
    :param policy: None if nobody is asked whether they are welcome.
    """

    def __init__(self, keyring: Keyring, slices: Slices, policy: Policy | None = None) -> None:
        self._keyring = keyring
        self._slices = slices
        self._policy = policy

    async def ask_policy(self, checked: Sequence[CheckedEvent]) -> list[CheckedEvent]:
        """The same events, with what the policy servers make of them."""
        if self._policy is None:
            return list(checked)
        welcome = await self._policy.welcomes([item.event for item in checked])
        return [replace(item, is_welcome=is_welcome) for item, is_welcome in zip(checked, welcome, strict=True)]

    async def read_many(self, rules: RoomRules, room_id: str, pdus: Sequence[object]) -> dict[str, tuple[Event, Pdu]]:
        """1 for many events of a room, by ID; those that do not pass are left out, with a line in the log."""

        def read(pdu: object) -> tuple[Event, Pdu] | MatrixError:
            try:
                event, kept = read_foreign(rules, pdu)
                if event.room_id != room_id:
                    raise BadJson("The event is of another room.")
            except MatrixError as error:
                return error
            return event, kept

        found: dict[str, tuple[Event, Pdu]] = {}
        for outcome in await self._slices.map(read, pdus):
            if isinstance(outcome, MatrixError):
                _log.warning("a malformed event was left out", room=room_id, reason=outcome.reason or outcome.message)
            else:
                found[outcome[0].event_id] = outcome
        return found

    async def check(
        self,
        rules: RoomRules,
        event: Event,
        pdu: Pdu,
        *,
        also_by: str | None = None,
        relayed_by: str | None = None,
    ) -> CheckedEvent:
        """2 and 3. The signatures, then the content hash.

        :param event, pdu: as `read_foreign` gave them.
        :param also_by: a server that must have signed it beside those that must anyhow.
        :param relayed_by: who may tell the keys of servers that cannot be reached.
        :raises SignatureError: it was not signed by those who must.
        :raises ServerUnreachable: a key cannot be had.
        """
        await self._keyring.check_pdu(rules, pdu, event, also_by=also_by, relayed_by=relayed_by)
        return _hashed(rules, event, pdu)

    async def check_many(
        self, rules: RoomRules, read: Collection[tuple[Event, Pdu]], *, relayed_by: str | None = None
    ) -> list[CheckedEvent]:
        """2 and 3 for many events; those that do not pass are left out, with a line in the log.

        :param read: as `read_many` gave them.
        """
        faults = await self._keyring.check_pdus(rules, [(pdu, event) for event, pdu in read], relayed_by=relayed_by)
        signed = []
        for pair, fault in zip(read, faults, strict=True):
            if fault is None:
                signed.append(pair)
            else:
                _log.warning("an unsigned event was left out", event_id=pair[0].event_id, reason=str(fault))
        return await self._slices.map(lambda pair: _hashed(rules, *pair), signed)


def _hashed(rules: RoomRules, event: Event, pdu: Pdu) -> CheckedEvent:
    """3. What was altered on the way loses all that a redaction takes; the rest is what was signed (SEC-7)."""
    if not check_content_hash(rules, pdu):
        _log.warning("the content of an event was altered; it is kept in its redacted form", event_id=event.event_id)
        pdu = redact_pdu(rules, pdu)
        event = read_pdu(rules, pdu, event.event_id)
    return CheckedEvent(rules, event, encode_pdu(pdu))
