"""The keys of other servers: whom we believe, for how long, and how often we ask (FED-9, SEC-7, SEC-8).

The other servers are real ones on TLS sockets, which publish what a test wants; the time is moved by hand.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from msgspec.structs import replace
from signedjson.key import encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from synapse_like.background import Slices
from synapse_like.clock import ReactorClock
from synapse_like.federation import keyring as keyring_module
from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.keyring import Keyring
from synapse_like.federation.own_keys import OldKey, OwnKeys
from synapse_like.protocol.errors import MatrixError, SignatureError
from synapse_like.protocol.events import Event, Pdu
from synapse_like.protocol.request_signing import Credentials, authorization, parse_authorization
from synapse_like.protocol.room_versions import SPEC_2014
from synapse_like.protocol.signing import TRUSTED_AHEAD, sign_pdu
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.migrations import migrate
from tests.federation.other_servers import FederationCase, Other, Visitor, answer, loop
from tests.protocol.test_events import EVENT

US = "us.example"
NOW = 1_800_000_000_000
HOUR = 3600 * 1000
DAY = 24 * HOUR


class Peer:
    """Another server: what it publishes, and how often it was asked.

    :ivar changes: put over what it would publish honestly; a key with None is left out.
    """

    def __init__(self, case: KeyringCase, version: str = "1") -> None:
        self.case = case
        self.key = generate_signing_key(version)
        self.old: dict[str, tuple[Any, int]] = {}
        self.validity = DAY
        self.changes: dict[str, Any] = {}
        self.signers: Sequence[Any] | None = None
        self.notary: list[Any] = []
        self.is_mute = False
        self.asked: list[bytes] = []
        self.other: Other = case.listen(self.serve)
        self.name = f"localhost:{self.other.port}"

    def published(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "server_name": self.name,
            "valid_until_ts": self.case.now_ms() + self.validity,
            "verify_keys": {f"ed25519:{self.key.version}": {"key": public(self.key)}},
            "old_verify_keys": {
                key_id: {"key": public(key), "expired_ts": ended} for key_id, (key, ended) in self.old.items()
            },
        }
        said.update(self.changes)
        said = {name: value for name, value in said.items() if value is not None}
        for key in self.signers if self.signers is not None else [self.key]:
            said = sign_json(said, self.name, key)
        return said

    def serve(self, visitor: Visitor) -> None:
        request = visitor.requests[-1]
        self.asked.append(request.split(b"\r\n")[0])
        if self.is_mute:
            visitor.abort()
        elif request.startswith(b"POST /_matrix/key/v2/query "):
            visitor.say(answer(orjson.dumps({"server_keys": self.notary})))
        else:
            assert request.startswith(b"GET /_matrix/key/v2/server ")
            assert b"Authorization" not in request
            visitor.say(answer(orjson.dumps(self.published())))

    def credentials(self, key: Any = None, **changes: Any) -> Credentials:
        said = {"method": "GET", "uri": "/x", "content": None, "origin": self.name, "destination": US} | changes
        return parse_authorization(authorization(**said, key=key or self.key))


def public(key: Any) -> str:
    return encode_verify_key_base64(get_verify_key(key))


class KeyringCase(FederationCase):
    def setUp(self) -> None:
        super().setUp()
        self.time = Clock()
        self.time.advance(NOW / 1000)
        engine = open_engine("sqlite", data_dir=self.folder, durability="normal")
        self.database = Database(engine, loop, Bus(), readers=1)
        self.database.prepare(migrate)
        self.database.start()
        self.addCleanup(self.database.stop)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.until_idle()))
        self.threads = ThreadPool(0, 1)
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.own_key = generate_signing_key("own")
        self.old_key = generate_signing_key("was")
        self.keyring = self.new_keyring()

    def now_ms(self) -> int:
        return int(self.time.seconds() * 1000)

    def new_keyring(self, **options: Any) -> Keyring:
        """A keyring that knows only what is in the database, as after a restart."""
        own = OwnKeys(US, self.own_key, {"ed25519:was": OldKey(get_verify_key(self.old_key), NOW - DAY)})
        client = FederationClient(self.agent(), US, self.own_key)
        return Keyring(own, client, self.database, ReactorClock(self.time), Slices(loop, self.threads), **options)

    async def verify(self, credentials: Credentials, **changes: Any) -> str:
        said: dict[str, Any] = {"method": "GET", "uri": "/x", "content": None} | changes
        return await self.keyring.verify_request(credentials, **said)

    async def refusal(self, credentials: Credentials, **changes: Any) -> str:
        with pytest.raises(SignatureError) as caught:
            await self.verify(credentials, **changes)
        return str(caught.value)

    async def until_idle(self) -> None:
        await self.until(lambda: self.keyring.is_idle)

    async def until_asked(self, peer: Peer, times: int) -> None:
        await self.until(lambda: len(peer.asked) == times)


def event_of(sender: str, made_at: int = NOW - HOUR) -> tuple[Pdu, Event]:
    """An event whose only signer is its sender's server, not signed yet."""
    event = replace(EVENT, event_id=f"$1:{sender}", sender=f"@alice:{sender}", origin_server_ts=made_at, state_key=None)
    pdu: Pdu = {
        "pdu_id": "1",
        "origin": sender,
        "context": "!r:a.example",
        "pdu_type": "m.room.message",
        "user_id": event.sender,
        "ts": made_at,
        "content": {"body": "hi"},
        "hashes": {"sha256": "x"},
    }
    return pdu, event


def signed(peer: Peer, key: Any = None, made_at: int = NOW - HOUR) -> tuple[Pdu, Event]:
    pdu, event = event_of(peer.name, made_at)
    return sign_pdu(SPEC_2014, pdu, peer.name, key or peer.key), event


class RequestTests(KeyringCase):
    async def test_origin_is_who_signed(self) -> None:
        peer = Peer(self)
        assert await self.verify(peer.credentials()) == peer.name
        body = {"a": 1}
        credentials = peer.credentials(method="PUT", content=b'{"a":1}')
        assert await self.verify(credentials, method="PUT", content=body) == peer.name
        assert len(peer.asked) == 1

    async def test_false_signature_is_refused(self) -> None:
        peer = Peer(self)
        assert "false" in await self.refusal(peer.credentials(generate_signing_key("1")))
        assert "false" in await self.refusal(peer.credentials(), uri="/y")
        assert "false" in await self.refusal(peer.credentials(), content={})
        assert "another server" in await self.refusal(peer.credentials(destination="c.example"))

    async def test_signature_of_another_server_is_refused(self) -> None:
        peer, liar = Peer(self), Peer(self)
        assert "false" in await self.refusal(liar.credentials()._replace(origin=peer.name))

    async def test_keys_survive_a_restart(self) -> None:
        peer = Peer(self)
        await self.verify(peer.credentials())
        self.keyring = self.new_keyring()
        peer.is_mute = True
        assert await self.verify(peer.credentials()) == peer.name
        assert len(peer.asked) == 1

    async def test_key_is_at_hand_once_it_was_used(self) -> None:
        peer = Peer(self)
        assert not self.keyring.has_at_hand(peer.name, "ed25519:1")
        await self.verify(peer.credentials())
        assert self.keyring.has_at_hand(peer.name, "ed25519:1")
        assert not self.keyring.has_at_hand(peer.name, "ed25519:2")
        self.time.advance(DAY / 1000 + 1)
        assert not self.keyring.has_at_hand(peer.name, "ed25519:1")

    async def test_concurrent_wishes_share_one_question(self) -> None:
        peer = Peer(self)
        credentials = peer.credentials()
        origins = await gatherResults([Deferred.fromCoroutine(self.verify(credentials)) for _ in range(20)])
        assert origins == [peer.name] * 20
        assert len(peer.asked) == 1

    async def test_server_that_cannot_be_reached_is_refused(self) -> None:
        peer = Peer(self)
        peer.is_mute = True
        assert "cannot be had" in await self.refusal(peer.credentials())

    async def test_keys_are_refreshed_when_half_of_their_validity_is_gone(self) -> None:
        peer = Peer(self)
        await self.verify(peer.credentials())
        self.time.advance(DAY / 2000 - 1)
        await self.verify(peer.credentials())
        assert len(peer.asked) == 1
        self.time.advance(2)
        await self.verify(peer.credentials())
        await self.until_asked(peer, 2)
        self.time.advance(DAY / 2000 + 3600)
        await self.verify(peer.credentials())

    async def test_key_is_not_believed_beyond_its_validity(self) -> None:
        peer = Peer(self)
        await self.verify(peer.credentials())
        peer.is_mute = True
        self.time.advance(DAY / 1000 + 1)
        assert "cannot be had" in await self.refusal(peer.credentials())

    async def test_nobodys_word_counts_for_more_than_a_week(self) -> None:
        peer = Peer(self)
        peer.validity = 1000 * DAY
        await self.verify(peer.credentials())
        peer.is_mute = True
        self.time.advance(TRUSTED_AHEAD / 1000 + 1)
        assert "cannot be had" in await self.refusal(peer.credentials())

    async def test_validity_that_is_over_already_does_not_count(self) -> None:
        peer = Peer(self)
        peer.validity = -1
        assert "has no key" in await self.refusal(peer.credentials())

    async def test_old_keys_sign_no_requests(self) -> None:
        peer = Peer(self)
        old = generate_signing_key("0")
        peer.old["ed25519:0"] = old, NOW + DAY
        assert "has no key ed25519:0" in await self.refusal(peer.credentials(old))

    async def test_new_key_is_fetched_when_it_is_first_seen(self) -> None:
        peer = Peer(self)
        await self.verify(peer.credentials())
        first, peer.key = peer.key, generate_signing_key("2")
        self.time.advance(keyring_module.FIRST_PAUSE + 1)
        assert await self.verify(peer.credentials()) == peer.name
        assert len(peer.asked) == 2
        # The first one is not told of any more.
        assert "has no key" in await self.refusal(peer.credentials(first))

    async def test_keys_that_do_not_exist_do_not_make_us_ask_again_and_again(self) -> None:
        peer = Peer(self)
        for number in range(100):
            assert "has no key" in await self.refusal(peer.credentials(generate_signing_key(f"junk{number}")))
            self.time.advance(60)
        # 30, 60, 120 … 600 seconds between the questions.
        assert 6 <= len(peer.asked) <= 16
        assert await self.verify(peer.credentials()) == peer.name

    async def test_server_that_does_not_answer_is_asked_less_and_less_and_heard_when_it_is_back(self) -> None:
        peer = Peer(self)
        peer.is_mute = True
        for _ in range(100):
            await self.refusal(peer.credentials())
            self.time.advance(1)
        # The agent tries twice each time.
        assert 2 * 4 <= len(peer.asked) <= 2 * 6
        peer.is_mute = False
        self.time.advance(keyring_module.LONGEST_FAILED_PAUSE)
        assert await self.verify(peer.credentials()) == peer.name

    async def test_own_keys_need_no_fetching(self) -> None:
        credentials = parse_authorization(
            authorization(method="GET", uri="/x", origin=US, destination=US, content=None, key=self.own_key)
        )
        assert await self.verify(credentials) == US
        assert "has no key" in await self.refusal(credentials._replace(key_id="ed25519:was"))


class PublishedKeysTests(KeyringCase):
    async def test_answers_that_cannot_be_believed_are_refused(self) -> None:
        stranger = generate_signing_key("1")
        for changes, signers in (
            ({"server_name": "other.example"}, None),
            ({"server_name": None}, None),
            ({"valid_until_ts": None}, None),
            ({"valid_until_ts": "1"}, None),
            ({"valid_until_ts": True}, None),
            ({"verify_keys": {}}, None),
            ({"verify_keys": None}, None),
            ({"verify_keys": {"ed25519:1": {"key": "x"}}}, None),
            ({"verify_keys": {"ed25519:1": "x"}}, None),
            ({}, []),
            ({}, [stranger]),
        ):
            peer = Peer(self)
            peer.changes, peer.signers = changes, signers
            reason = await self.refusal(peer.credentials())
            assert "cannot be had" in reason, (changes, signers)

    async def test_key_without_its_own_signature_is_dropped_and_the_others_stay(self) -> None:
        peer = Peer(self)
        other = generate_signing_key("2")
        peer.changes = {
            "verify_keys": {"ed25519:1": {"key": public(peer.key)}, "ed25519:2": {"key": public(other)}},
        }
        assert await self.verify(peer.credentials()) == peer.name
        assert "has no key ed25519:2" in await self.refusal(peer.credentials(other))
        peer.signers = [peer.key, other]
        self.time.advance(3600)
        assert await self.verify(peer.credentials(other)) == peer.name

    async def test_what_a_server_says_of_others_is_ignored(self) -> None:
        victim, liar = Peer(self), Peer(self)
        liar.changes = {"server_name": victim.name}
        await self.refusal(liar.credentials())
        liar.changes = {"server_keys": [victim.published()]}
        self.time.advance(3600)
        victim.is_mute = True
        await self.verify(liar.credentials())
        assert "cannot be had" in await self.refusal(victim.credentials())


class EventTests(KeyringCase):
    async def check(self, pair: tuple[Pdu, Event], **options: Any) -> MatrixError | None:
        try:
            await self.keyring.check_pdu(SPEC_2014, *pair, **options)
        except MatrixError as error:
            return error
        return None

    async def test_event_is_its_senders(self) -> None:
        peer = Peer(self)
        assert await self.check(signed(peer)) is None
        assert "false" in str(await self.check(signed(peer, generate_signing_key("1"))))
        assert "no signature" in str(await self.check(event_of(peer.name)))

    async def test_all_signers_must_have_signed(self) -> None:
        peer, other = Peer(self), Peer(self)
        pdu, event = event_of(peer.name)
        event = replace(event, sender=f"@alice:{other.name}")
        for_one = sign_pdu(SPEC_2014, pdu, peer.name, peer.key)
        assert f"no signature of {other.name}" in str(await self.check((for_one, event)))
        assert await self.check((sign_pdu(SPEC_2014, for_one, other.name, other.key), event)) is None

    async def test_own_events_need_no_fetching(self) -> None:
        pdu, event = event_of(US)
        assert await self.check((sign_pdu(SPEC_2014, pdu, US, self.own_key), event)) is None
        late = sign_pdu(SPEC_2014, pdu, US, self.old_key), event
        assert "its key at the time" in str(await self.check(late))
        pdu, event = event_of(US, NOW - 2 * DAY)
        assert await self.check((sign_pdu(SPEC_2014, pdu, US, self.old_key), event)) is None

    async def test_old_key_vouches_only_for_what_was_before_its_end(self) -> None:
        peer = Peer(self)
        old = generate_signing_key("0")
        peer.old["ed25519:0"] = old, NOW - DAY
        assert await self.check(signed(peer, old, NOW - DAY)) is None
        assert "its key at the time" in str(await self.check(signed(peer, old, NOW - DAY + 1)))

    async def test_key_that_is_not_told_any_more_vouches_for_what_was_before(self) -> None:
        peer = Peer(self)
        first = peer.key
        assert await self.check(signed(peer)) is None
        self.time.advance(3600)
        peer.key = generate_signing_key("2")
        assert await self.check(signed(peer)) is None
        assert await self.check(signed(peer, first, NOW)) is None
        assert "its key at the time" in str(await self.check(signed(peer, first, NOW + 2 * HOUR)))

    async def test_validity_is_asked_for_again_where_the_rules_want_it(self) -> None:
        peer = Peer(self)
        assert await self.check(signed(peer)) is None
        self.time.advance(2 * DAY / 1000)
        assert await self.check(signed(peer, made_at=NOW + 2 * DAY - HOUR)) is None
        assert len(peer.asked) == 2
        # Nobody vouches for what is made in a far future.
        assert "its key at the time" in str(await self.check(signed(peer, made_at=NOW + 30 * DAY)))

    async def test_many_events_ask_each_server_once(self) -> None:
        peers = [Peer(self) for _ in range(5)]
        pairs = [signed(peers[number % 5]) for number in range(200)]
        forged = event_of(peers[0].name)
        pairs[7] = sign_pdu(SPEC_2014, forged[0], peers[0].name, generate_signing_key("1")), forged[1]
        pairs[9] = forged
        outcomes = await self.keyring.check_pdus(SPEC_2014, pairs)
        assert [index for index, outcome in enumerate(outcomes) if outcome is not None] == [7, 9]
        assert [len(peer.asked) for peer in peers] == [1] * 5

    async def test_one_server_that_is_away_spoils_nothing_of_the_others(self) -> None:
        here, away = Peer(self), Peer(self)
        away.is_mute = True
        outcomes = await self.keyring.check_pdus(SPEC_2014, [signed(here), signed(away), signed(here)])
        assert outcomes[0] is outcomes[2] is None
        assert isinstance(outcomes[1], ServerUnreachable)

    async def test_malformed_signatures_are_missing_ones(self) -> None:
        peer = Peer(self)
        pdu, event = event_of(peer.name)
        for signatures in (None, [], {peer.name: []}, {peer.name: {}}, {peer.name: {"rsa:1": "x"}}):
            assert "no signature" in str(await self.check((pdu | {"signatures": signatures}, event)))
        assert peer.asked == []

    async def test_any_of_several_signatures_will_do(self) -> None:
        peer = Peer(self)
        pdu, event = signed(peer)
        both = sign_pdu(SPEC_2014, pdu, peer.name, generate_signing_key("unknown"))
        assert await self.check((both, event)) is None


class RelayTests(KeyringCase):
    def setUp(self) -> None:
        super().setUp()
        self.away, self.relay = Peer(self), Peer(self)
        self.relay.notary = [self.away.published()]
        self.away.is_mute = True

    async def outcome(self, pair: tuple[Pdu, Event], relayed_by: str | None = None) -> MatrixError | None:
        [error] = await self.keyring.check_pdus(SPEC_2014, [pair], relayed_by=relayed_by)
        return error

    async def test_server_that_gave_us_events_may_vouch_for_keys(self) -> None:
        assert isinstance(await self.outcome(signed(self.away)), ServerUnreachable)
        assert await self.outcome(signed(self.away), self.relay.name) is None
        assert self.relay.asked == [b"POST /_matrix/key/v2/query HTTP/1.1"]

    async def test_relayed_keys_sign_no_requests(self) -> None:
        assert await self.outcome(signed(self.away), self.relay.name) is None
        assert "cannot be had" in await self.refusal(self.away.credentials())

    async def test_relayed_keys_must_be_signed_by_themselves_and_asked_for(self) -> None:
        forged = self.away.published() | {"verify_keys": {"ed25519:1": {"key": public(generate_signing_key("1"))}}}
        self.relay.notary = [forged, {"server_name": "other.example"}, {}, {"server_name": 5}]
        assert isinstance(await self.outcome(signed(self.away), self.relay.name), ServerUnreachable)

    async def test_relayed_keys_that_nobody_asked_for_are_not_kept(self) -> None:
        other = Peer(self)
        other.is_mute = True
        self.relay.notary.append(other.published())
        assert await self.outcome(signed(self.away), self.relay.name) is None
        assert isinstance(await self.outcome(signed(other)), ServerUnreachable)

    async def test_relayed_keys_can_be_refused(self) -> None:
        self.keyring = self.new_keyring(accept_relayed=False)
        assert isinstance(await self.outcome(signed(self.away), self.relay.name), ServerUnreachable)
        assert self.relay.asked == []

    async def test_trusted_servers_are_asked_whoever_gave_the_events(self) -> None:
        self.keyring = self.new_keyring(accept_relayed=False, trusted_key_servers=[self.relay.name])
        assert await self.outcome(signed(self.away)) is None

    async def test_word_of_the_server_itself_takes_the_place_of_what_was_relayed(self) -> None:
        fake = generate_signing_key("1")
        true, self.away.key = self.away.key, fake
        self.relay.notary = [self.away.published()]
        assert await self.outcome(signed(self.away, fake), self.relay.name) is None
        self.away.key, self.away.is_mute = true, False
        self.time.advance(keyring_module.LONGEST_FAILED_PAUSE)
        # Known already, so that it passes once more; but now the server is asked.
        assert await self.outcome(signed(self.away, fake), self.relay.name) is None
        await self.until_idle()
        assert "false" in str(await self.outcome(signed(self.away, fake), self.relay.name))
        assert await self.outcome(signed(self.away, true)) is None
        self.keyring = self.new_keyring()
        assert "false" in str(await self.outcome(signed(self.away, fake), self.relay.name))

    async def test_relay_cannot_replace_what_a_server_has_said_itself(self) -> None:
        self.away.is_mute = False
        assert await self.outcome(signed(self.away)) is None
        fake = generate_signing_key("1")
        true, self.away.key = self.away.key, fake
        fake2 = generate_signing_key("2")
        self.away.changes = {"verify_keys": {"ed25519:1": {"key": public(fake)}, "ed25519:2": {"key": public(fake2)}}}
        self.away.signers = [fake, fake2]
        self.relay.notary = [self.away.published()]
        self.away.key, self.away.is_mute = true, True
        self.time.advance(3600)
        # The unknown key makes us ask the relay, which then tries to replace the known one.
        assert await self.outcome(signed(self.away, fake2), self.relay.name) is None
        assert "false" in str(await self.outcome(signed(self.away, fake), self.relay.name))
        assert await self.outcome(signed(self.away, true)) is None

    async def test_relay_is_not_asked_again_and_again(self) -> None:
        self.relay.notary = []
        for _ in range(20):
            assert isinstance(await self.outcome(signed(self.away), self.relay.name), ServerUnreachable)
            self.time.advance(1)
        assert len(self.relay.asked) == 1

    async def test_many_servers_that_are_away_are_one_question(self) -> None:
        others = [Peer(self) for _ in range(4)]
        self.relay.notary = [peer.published() for peer in others]
        for peer in others:
            peer.is_mute = True
        pairs = [signed(peer) for peer in others]
        assert await self.keyring.check_pdus(SPEC_2014, pairs, relayed_by=self.relay.name) == [None] * 4
        assert len(self.relay.asked) == 1
