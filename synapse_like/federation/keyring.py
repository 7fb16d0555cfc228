"""Who has signed? The keys of other servers: fetched, kept, refreshed, and used (FED-9, SEC-7, SEC-8).

**Whose word counts.** A server is asked for its keys itself. Its answer must be signed by the keys that it tells, and
says nothing about other servers. Its word on how long they are valid counts for a week at the most. Old keys vouch for
events that were made before they ended, never for requests. If a server cannot be reached, the one that gave us its
events may vouch for its keys, or a server that the operator trusts (`relayed_by`): that counts for events only, and
only until the server itself answers.

**When we ask.** Keys are in memory, else in the database. A server is asked when a key is wanted that is not there or
no longer valid, and in the background when half of the validity is gone. All who want the keys of one server at the
same time share one request. After each that brought nothing new, the next must wait twice as long: nobody can make us
ask again and again by naming keys that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cachetools import LRUCache
from msgspec import Struct, field
from signedjson.key import get_verify_key
from signedjson.types import VerifyKey
from twisted.internet.defer import Deferred, DeferredSemaphore

from synapse_like.background import Slices, all_of, run_in_background
from synapse_like.clock import Clock
from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.own_keys import OwnKeys
from synapse_like.federation.sharing import Shared
from synapse_like.logs import get_logger
from synapse_like.protocol import canonical_json, request_signing, server_keys
from synapse_like.protocol.errors import MatrixError, SignatureError
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.identifiers import parse_server_name
from synapse_like.protocol.request_signing import Credentials, encode_content, is_key_id
from synapse_like.protocol.room_versions import RoomRules
from synapse_like.protocol.signing import TRUSTED_AHEAD, key_vouches_for, signers_of, verify_pdu
from synapse_like.storage import server_keys as stored_keys
from synapse_like.storage.database import Database
from synapse_like.storage.server_keys import StoredKey

#: Servers whose keys are held in memory; of those we have asked and of whom we know how long to wait.
MOST_SERVERS, MOST_PAUSES = 5_000, 50_000
#: Seconds until a server is asked again: at first, and at the most; after it gave nothing new, or did not answer.
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
FIRST_FAILED_PAUSE, LONGEST_FAILED_PAUSE = 5.0, 300.0
#: Servers that are asked at the same time.
MOST_AT_ONCE = 20
#: Keys of one signer with which an event may be signed.
MOST_SIGNATURES = 8

_log = get_logger(__name__)


class _Key(Struct, frozen=True):
    """A key as it is used. See `StoredKey`."""

    key: VerifyKey
    valid_until: int
    is_old: bool
    relayed_by: str | None

    def vouches_for(self, rules: RoomRules, event: Event, now: int) -> bool:
        """Whether it counts as the key of its server at the time of an event."""
        if self.is_old:
            return event.origin_server_ts <= self.valid_until
        return key_vouches_for(rules, event, valid_until=self.valid_until, now=now)


class _Server(Struct, frozen=True):
    """What is known of a server's keys.

    :ivar refresh_at: when half of their validity is gone.
    """

    keys: Mapping[str, _Key] = field(default_factory=dict)
    refresh_at: int = 0

    @property
    def is_first_hand(self) -> bool:
        """Whether the server has told all of them itself."""
        return all(key.relayed_by is None for key in self.keys.values())

    def for_requests(self, key_id: str, now: int) -> _Key | None:
        """A key with which the server may sign requests, by its own word."""
        key = self.keys.get(key_id)
        if key is None or key.is_old or key.relayed_by is not None or key.valid_until < now:
            return None
        return key


class _Pause(Struct):
    """How long to wait before asking again: until a moment, and then so many seconds."""

    until: float = 0.0
    seconds: float = 0.0
    failure: ServerUnreachable | None = None


class _Need(Struct, frozen=True):
    """A signature that an event must have, and the IDs of the keys it may be made with."""

    rules: RoomRules
    pdu: Pdu
    event: Event
    signer: str
    key_ids: tuple[str, ...]


class Keyring:
    """Checks signatures.

    :param own: our keys.
    :param slices: where many signatures are checked.
    :param accept_relayed: whether the server that gave us events may vouch for the keys of those it cannot be asked.
    :param trusted_key_servers: servers that may always do so.
    """

    def __init__(
        self,
        own: OwnKeys,
        client: FederationClient,
        database: Database,
        clock: Clock,
        slices: Slices,
        *,
        accept_relayed: bool = True,
        trusted_key_servers: Sequence[str] = (),
    ) -> None:
        self._name = own.server_name
        self._client = client
        self._database = database
        self._clock = clock
        self._slices = slices
        self._accept_relayed = accept_relayed
        self.trust(trusted_key_servers)
        self._own = _Server(
            {own.signing_id: _Key(get_verify_key(own.signing), _FOR_EVER, is_old=False, relayed_by=None)}
            | {key_id: _Key(old.key, old.ended, is_old=True, relayed_by=None) for key_id, old in own.old.items()},
            _FOR_EVER,
        )
        self._known: LRUCache[str, _Server] = LRUCache(MOST_SERVERS)
        self._pauses: LRUCache[tuple[str, str], _Pause] = LRUCache(MOST_PAUSES)
        self._loading: Shared[str, _Server] = Shared(self._load)
        self._fetching: Shared[str, _Server] = Shared(self._fetch)
        self._free = DeferredSemaphore(MOST_AT_ONCE)

    def trust(self, servers: Sequence[str]) -> None:
        """Have other servers be those that may always vouch for keys."""
        self._trusted = tuple(name for name in servers if name != self._name)

    @property
    def is_idle(self) -> bool:
        """Whether no server is being asked."""
        return self._fetching.is_idle

    # Requests.

    async def verify_request(self, credentials: Credentials, *, method: str, uri: str, content: object) -> str:
        """Who made a request, if it was signed by them, and for us.

        :param uri: path and query, exactly as received.
        :param content: the JSON of its body; None if it had none.
        :raises SignatureError: it was not, or nobody can tell.
        """
        if credentials.destination not in (None, self._name):
            raise SignatureError("This request was signed for another server.")
        key = await self._key_for_requests(credentials.origin, credentials.key_id)
        encoded = None if content is None else encode_content(content)
        request_signing.verify(
            credentials, method=method, uri=uri, destination=self._name, content=encoded, key=key.key
        )
        return credentials.origin

    def has_at_hand(self, server_name: str, key_id: str) -> bool:
        """Whether a key that may sign requests is in memory, so that nobody need be asked for it, nor the database."""
        server = self._at_hand(server_name)
        return server is not None and server.for_requests(key_id, self._clock.now_ms()) is not None

    async def _key_for_requests(self, server_name: str, key_id: str) -> _Key:
        now = self._clock.now_ms()
        server = await self._server(server_name)
        key = server.for_requests(key_id, now)
        if key is None:
            try:
                server = await self._refresh(server_name, lambda server: server.for_requests(key_id, now) is not None)
            except MatrixError as error:
                sentence = f"The keys of {server_name} cannot be had."
                raise SignatureError(sentence, reason=error.reason or error.message) from error
            key = server.for_requests(key_id, now)
            if key is None:
                raise SignatureError(f"{server_name} has no key {key_id}, or has it no more.")
        elif now >= server.refresh_at:
            self._refresh_in_background(server_name)
        return key

    # Events.

    async def check_pdu(
        self,
        rules: RoomRules,
        pdu: Pdu,
        event: Event,
        *,
        also_by: str | None = None,
        relayed_by: str | None = None,
    ) -> None:
        """See that an event has all the signatures that it must have.

        :param also_by: a server that must have signed it beside those.
        :param relayed_by: the server that gave it to us.
        :raises SignatureError: one is missing or false.
        :raises ServerUnreachable: a key cannot be had.
        """
        needs = _needs(rules, pdu, event, also_by)
        if all(map(self._is_at_hand, needs)):
            # As it mostly is: then there is nobody to ask, nor anything to put together.
            faults = [_verify((need, self._vouching(need))) for need in needs]
        else:
            faults = await self.check_pdus(rules, [(pdu, event)], also_by=also_by, relayed_by=relayed_by)
        for fault in faults:
            if fault is not None:
                raise fault

    async def check_pdus(
        self,
        rules: RoomRules,
        pairs: Sequence[tuple[Pdu, Event]],
        *,
        also_by: str | None = None,
        relayed_by: str | None = None,
    ) -> list[MatrixError | None]:
        """The same for many: for each what is wrong with it, or None."""
        outcomes: list[MatrixError | None] = [None] * len(pairs)
        needs: list[tuple[int, _Need]] = []
        for index, (pdu, event) in enumerate(pairs):
            try:
                needs.extend((index, need) for need in _needs(rules, pdu, event, also_by))
            except MatrixError as error:
                outcomes[index] = error
        failures = await self._provide([need for _, need in needs if not self._is_at_hand(need)], relayed_by)
        indexes: list[int] = []
        checks: list[tuple[_Need, list[VerifyKey]]] = []
        for index, need in needs:
            keys = self._vouching(need)
            if keys:
                indexes.append(index)
                checks.append((need, keys))
            else:
                outcomes[index] = outcomes[index] or failures.get(need.signer) or _no_key(need)
        for index, fault in zip(indexes, await self._slices.map(_verify, checks), strict=True):
            outcomes[index] = outcomes[index] or fault
        return outcomes

    def _vouching(self, need: _Need) -> list[VerifyKey]:
        """The keys that are known now and may have made a signature."""
        server = self._at_hand(need.signer) or _Server()
        now = self._clock.now_ms()
        keys = (server.keys.get(key_id) for key_id in need.key_ids)
        return [key.key for key in keys if key is not None and key.vouches_for(need.rules, need.event, now)]

    def _is_at_hand(self, need: _Need) -> bool:
        """Whether a key for a signature is known, and nobody need be asked for a better one."""
        server = self._at_hand(need.signer)
        return server is not None and server.is_first_hand and bool(self._vouching(need))

    async def _provide(self, needs: Sequence[_Need], relayed_by: str | None) -> dict[str, ServerUnreachable]:
        """See that the keys for some signatures are known, as far as they can be had; why they cannot, by server."""
        if not needs:
            return {}
        by_signer: dict[str, list[_Need]] = {}
        for need in needs:
            by_signer.setdefault(need.signer, []).append(need)
        failures: dict[str, ServerUnreachable] = {}

        async def ask(signer: str) -> None:
            try:
                server = await self._server(signer)
                if self._satisfies(by_signer[signer]):
                    if not server.is_first_hand:
                        self._refresh_in_background(signer)
                    return
                await self._refresh(signer, lambda _: self._satisfies(by_signer[signer]))
            except MatrixError as error:
                failures[signer] = (
                    error
                    if isinstance(error, ServerUnreachable)
                    else ServerUnreachable(signer, error.reason or error.message)
                )

        await all_of([Deferred.fromCoroutine(ask(signer)) for signer in by_signer])
        relays = list(self._trusted)
        if self._accept_relayed and relayed_by is not None:
            relays.append(relayed_by)
        for relay in relays:
            wanted = {
                signer: sorted({key_id for need in by_signer[signer] for key_id in need.key_ids})
                for signer in failures
                if signer != relay and not self._satisfies(by_signer[signer])
            }
            await self._ask_relay(relay, wanted)
        return failures

    def _satisfies(self, needs: Iterable[_Need]) -> bool:
        return all(self._vouching(need) for need in needs)

    # Knowing.

    def _at_hand(self, server_name: str) -> _Server | None:
        return self._own if server_name == self._name else self._known.get(server_name)

    async def _server(self, server_name: str) -> _Server:
        """What is known of a server's keys, without asking it."""
        return self._at_hand(server_name) or await self._loading.get(server_name)

    async def _load(self, server_name: str) -> _Server:
        keys = await self._database.read("server-keys", stored_keys.of_server, server_name)
        return self._at_hand(server_name) or self._learn(server_name, keys)

    def _learn(self, server_name: str, keys: Iterable[StoredKey]) -> _Server:
        """Put what the database has into memory."""
        usable = {}
        refresh_at = 0
        for stored in keys:
            key = server_keys.verify_key(stored.key_id, stored.verify_key)
            usable[stored.key_id] = _Key(key, stored.valid_until, stored.is_old, stored.relayed_by)
            if not stored.is_old and stored.relayed_by is None:
                refresh_at = (stored.fetched_at + stored.valid_until) // 2
        server = self._known[server_name] = _Server(usable, refresh_at)
        return server

    # Asking.

    async def _refresh(self, server_name: str, is_enough: Callable[[_Server], bool]) -> _Server:
        """Ask a server for its keys, unless it was asked a moment ago.

        :param is_enough: whether what it answered is what was wanted; if not, the next must wait longer.
        :raises MatrixError: it gives none.
        """
        if server_name == self._name:
            return self._own
        if server_name in self._fetching:
            return await self._fetching.get(server_name)
        if not self._may_ask(server_name):
            pause = self._pauses[server_name, ""]
            if pause.failure is not None:
                raise ServerUnreachable(server_name, f"asked a moment ago: {pause.failure.reason}")
            return await self._server(server_name)
        before = (await self._server(server_name)).keys
        try:
            server = await self._fetching.get(server_name)
        except MatrixError as error:
            failure = error if isinstance(error, ServerUnreachable) else ServerUnreachable(server_name, error.message)
            self._pause(server_name, "", failure)
            raise
        if is_enough(server) and server.keys.keys() != before.keys():
            self._pauses.pop((server_name, ""), None)
        self._pause(server_name, "")
        return server

    def _refresh_in_background(self, server_name: str) -> None:
        if server_name not in self._fetching and self._may_ask(server_name):
            run_in_background("refresh-server-keys", self._refresh, server_name, lambda _: True)

    def _may_ask(self, server_name: str, relay: str = "") -> bool:
        pause = self._pauses.get((server_name, relay))
        return pause is None or self._clock.monotonic() >= pause.until

    def _pause(self, server_name: str, relay: str, failure: ServerUnreachable | None = None) -> None:
        pause = self._pauses.setdefault((server_name, relay), _Pause())
        first, longest = (FIRST_PAUSE, LONGEST_PAUSE) if failure is None else (FIRST_FAILED_PAUSE, LONGEST_FAILED_PAUSE)
        is_like_before = (pause.failure is None) == (failure is None)
        pause.seconds = min(max(pause.seconds * 2, first), longest) if is_like_before else first
        pause.until = self._clock.monotonic() + pause.seconds
        pause.failure = failure

    async def _fetch(self, server_name: str) -> _Server:
        """Ask a server for its keys, and keep them."""
        await self._free.acquire()
        try:
            answer = await self._client.server_keys(server_name)
        finally:
            self._free.release()
        told = server_keys.read(answer, server_name)
        now = self._clock.now_ms()
        text = canonical_json.encode_in_any_order(answer).decode()
        valid_until = min(told.valid_until, now + TRUSTED_AHEAD)
        keys = await self._database.write(
            "server-keys",
            stored_keys.replace,
            server_name,
            _stored(told, now, None),
            text,
            valid_until=valid_until,
            now_ms=now,
        )
        _log.debug("a server has told its keys", server=server_name, keys=sorted(told.current))
        return self._learn(server_name, keys)

    async def _ask_relay(self, relay: str, wanted: Mapping[str, Sequence[str]]) -> None:
        """Ask one server for the keys of others that do not answer, and keep what they have signed themselves."""
        wanted = {name: key_ids for name, key_ids in wanted.items() if key_ids and self._may_ask(name, relay)}
        if not wanted or relay == self._name:
            return
        for server_name in wanted:
            self._pause(server_name, relay)
        try:
            answers = await self._client.query_keys(relay, wanted)
        except MatrixError as error:
            _log.info("no keys by way of another server", relay=relay, reason=error.reason or error.message)
            return
        now = self._clock.now_ms()
        for answer in answers:
            name = answer.get("server_name")
            if not isinstance(name, str) or name not in wanted:
                _log.debug("keys that nobody asked for", relay=relay)
                continue
            try:
                told = server_keys.read(answer, name)
            except SignatureError as error:
                _log.info("keys that their server has not signed", relay=relay, server=name, reason=error.message)
                continue
            keys = await self._database.write("relayed-keys", stored_keys.add_relayed, name, _stored(told, now, relay))
            self._learn(name, keys)
            _log.info("keys by way of another server", relay=relay, server=name, keys=sorted(told.current))

    # For others who want keys (the notary).

    async def signed_answer(self, server_name: str, minimum: int | None = None) -> Mapping[str, Any] | None:
        """What a server says of its own keys, signed by it, as fresh as can be had; None if it never said anything.

        :param server_name: well-formed, and not ours.
        :param minimum: until when it should be valid; it is asked anew if what we have is not. Now, if left out.
        """
        # Nobody's word counts for more than a week ahead, so that to want more would be to ask in vain each time.
        latest = self._clock.now_ms() + TRUSTED_AHEAD // 2
        wanted_until = min(max(minimum or 0, self._clock.now_ms()), latest)
        found = await self._database.read("server-key-answer", stored_keys.answer_of, server_name)
        if found is None or found[1] <= wanted_until:
            try:
                await self._refresh(server_name, lambda _: True)
            except MatrixError as error:
                _log.debug("no keys to pass on", server=server_name, reason=error.reason or error.message)
            found = await self._database.read("server-key-answer", stored_keys.answer_of, server_name)
        if found is None:
            return None
        answer: Any = canonical_json.decode(found[0].encode())
        return dict(answer)


_FOR_EVER = 2**53 - 1


def _stored(told: server_keys.ServerKeys, now: int, relayed_by: str | None) -> list[StoredKey]:
    """Keys as they are kept. No word counts for more than a week ahead."""
    valid_until = min(told.valid_until, now + TRUSTED_AHEAD)
    keys = [
        StoredKey(key_id, key.encode(), valid_until, False, relayed_by, now) for key_id, key in told.current.items()
    ]
    keys += [
        StoredKey(key_id, key.encode(), min(ended, now), True, relayed_by, now)
        for key_id, (key, ended) in told.old.items()
    ]
    return keys


def _needs(rules: RoomRules, pdu: Pdu, event: Event, also_by: str | None) -> list[_Need]:
    """The signatures that an event must have.

    :raises MatrixError: one of them is missing, or cannot be named.
    """
    signatures = pdu.get("signatures")
    needs = []
    for signer in sorted(signers_of(rules, event).union([] if also_by is None else [also_by])):
        parse_server_name(signer)
        by_signer = signatures.get(signer) if isinstance(signatures, dict) else None
        key_ids = [key_id for key_id in by_signer if is_key_id(key_id)] if isinstance(by_signer, dict) else []
        if not key_ids:
            raise SignatureError(f"There is no signature of {signer}.")
        needs.append(_Need(rules, pdu, event, signer, tuple(key_ids[:MOST_SIGNATURES])))
    return needs


def _no_key(need: _Need) -> SignatureError:
    return SignatureError(f"None of the keys by which {need.signer} has signed was its key at the time.")


def _verify(check: tuple[_Need, Sequence[VerifyKey]]) -> MatrixError | None:
    """Check a signature, which may be by any of some keys; what is wrong with it, or None."""
    need, keys = check
    error: MatrixError | None = None
    for key in keys:
        try:
            verify_pdu(need.rules, need.pdu, need.signer, key)
        except MatrixError as refused:
            error = refused
        else:
            return None
    return error
