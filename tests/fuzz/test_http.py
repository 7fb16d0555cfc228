"""Every route of a whole server, asked what nobody should ask (SEC-1): no answer is an error of ours, none stays away,
and nothing of it stays in memory."""

# mypy: allow-untyped-calls

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from structlog.testing import capture_logs

from synapse_like.http.routing import Route
from synapse_like.http.site import Site
from synapse_like.protocol.canonical_json import decode
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.request_signing import encode_content
from synapse_like.protocol.room_versions import rules_for
from tests.fuzz.mutations import mutate
from tests.fuzz.requests import Known, Maker, Shot, tries
from tests.support.inside import PASSWORD, PEER, US, Inside, exchange, identity_inside, inside, quoted, request
from tests.support.peer_rooms import PeerRoom

#: How many requests of each side are made; by hand as many as one likes, others each time.
EXAMPLES = int(os.environ.get("SYNAPSE_LIKE_FUZZ", "1500"))
BY_HAND = "SYNAPSE_LIKE_FUZZ" in os.environ
#: Bytes that the process may have grown by hand, from one run to the next.
GROWTH = 32 * 1024 * 1024
#: After how many requests there is a new room with new users.
RENEWED_AFTER = 200
#: What stands behind `Bearer`: tokens of users, and of nobody.
TOKENS = ("{alice}", "{alice}", "{alice}", "{carol}", "x", "")


class Scene:
    """A server with two users and a room, in which a user of another server is, too.

    :ivar known: what there is on it; new after every so many requests, since those ban each other and end each other's
        logins.
    """

    def __init__(self, server: Inside) -> None:
        self.server = server
        self.requests = 0
        self._scenes = count(1)
        self.renew()

    def renew(self) -> None:
        """Begin anew, with other users in another room."""
        with capture_logs():
            self._renew()

    def _renew(self) -> None:
        server, number = self.server, next(self._scenes)
        self.names = {"alice": f"alice{number}", "carol": f"carol{number}"}
        alice, carol = (server.register(name) for name in self.names.values())
        wish = {"visibility": "public", "room_alias_name": f"here{number}"}
        made = server.ask("POST", "/createRoom", wish, self.names["alice"])
        room_id, alias = made["room_id"], made["room_alias"]
        place = f"/rooms/{quoted(room_id)}"
        server.ask("PUT", f"{place}/state/m.room.send_event_level/", {"level": 0}, self.names["alice"])
        server.ask("POST", f"/join/{quoted(room_id)}", {}, self.names["carol"])
        hello = {"msgtype": "m.text", "body": "hello"}
        self.event_id = server.ask("POST", f"{place}/send/m.room.message", hello, self.names["alice"])["event_id"]
        self.bob, self.eve = f"@bob{number}:{PEER}", f"@eve{number}:{PEER}"
        self.room = server.join_as_peer(room_id, self.bob)
        self.theirs = PeerRoom.create(rules_for("1"), self.bob, PEER, server.peer_key)
        self.guest = alice
        users = [alice, carol, self.bob, f"@nobody:{US}", "@x:10.0.0.1"]
        rooms = [room_id, f"!none:{US}", f"!none:{PEER}"]
        event_ids = [self.event_id, *list(self.room.events)[:4], f"$none:{US}"]
        positions = ["s1_0_0", "s5_0_0", "s99999_0_0", "s0", "s1_0"]
        servers, sides = [US, PEER, "10.0.0.1"], ["32", "9000"]
        aliases = [alias, f"#new{number}:{US}", f"#x:{PEER}"]
        values: dict[str, list[str]] = {
            "room": [room_id] * 6 + [alias, *rooms],
            **dict.fromkeys(("user", "user_id"), users),
            **dict.fromkeys(("alias", "room_alias"), aliases),
            **dict.fromkeys(("event_id", "v"), event_ids),
            **dict.fromkeys(("server", "server_name"), servers),
            **dict.fromkeys(("from", "to"), positions),
            "ver": ["spec-2014", "1", "11", "x"],
            "type": ["m.room.message", "m.room.topic", "m.room.member", "m.room.power_levels", "m.room.redaction", "x"],
            "state_key": ["", alice, self.bob, "x"],
            "field": ["displayname", "avatar_url", "x"],
            "txn_id": [f"{number}", "2", "x" * 200],
            "content_id": [self._upload(), "x"],
            "origin": [US, PEER],
            "pdu_id": [event_id[1:].partition(":")[0] for event_id in event_ids],
            "key_id": ["ed25519:1", "ed25519:lie", "x"],
            "kind": ["directory", "profile", "x"],
            "dir": ["b", "f", "x"],
            "timeout": ["0", "50"],
            "limit": ["1", "10", "1000"],
            **dict.fromkeys(("width", "height"), sides),
            "method": ["scale", "crop", "x"],
            "medium": ["email", "msisdn", "x"],
            "address": ["a@b.example", "+4930123456", "x"],
            "access_token": ["x", "{carol}"],
        }
        texts = [self.names["alice"], *users, *rooms, alias, *event_ids, PASSWORD, "m.login.password", "join", "invite"]
        self.known = Known(values, texts, self._pdus, self._step)

    def _upload(self) -> str:
        headers = {"Authorization": f"Bearer {self.server.tokens[self.names['alice']]}", "Content-Type": "text/plain"}
        sent = request("POST", "/_matrix/media/v1/upload", b"hello", headers)
        uri: str = self.server.send(self.server.client_site, sent).json["content_uri"]
        return uri.rpartition("/")[2]

    def _pdus(self, random: Random) -> list[dict[str, Any]]:
        room, bob = self.room, self.bob
        made = [
            room.make(bob, "m.room.message", {"msgtype": "m.text", "body": "hi"}),
            room.make(bob, "m.room.member", {"membership": random.choice(["join", "invite"])}, bob),
            room.make(bob, "m.room.topic", {"topic": "x"}, ""),
            room.make(bob, "m.room.redaction", {}, redacts=self.event_id),
        ]
        random.shuffle(made)
        chosen: list[dict[str, Any]] = [dict(pdu) for pdu in made[: random.choice((1, 1, 2, 3))]]
        if random.random() < 0.6:
            changed = mutate(dict(chosen[0]), random)
            with suppress(MatrixError, AttributeError, TypeError, KeyError, ValueError):
                # If it has no form that could be signed, what is good stays.
                chosen[0] = dict(room.seal(changed))
        return chosen

    def _step(self, random: Random, step: str) -> tuple[str, str, Any]:
        if step == "invite":
            pdu = self.theirs.make(self.bob, "m.room.member", {"membership": "invite"}, self.guest)
            body = {"room_version": "1", "event": dict(pdu), "invite_room_state": []}
            return self.theirs.room_id, self.theirs.id_of(pdu), body
        user = random.choice([self.eve, self.bob])
        pdu = self.room.make(user, "m.room.member", {"membership": step}, user)
        return self.room.room_id, self.room.id_of(pdu), dict(pdu)

    def fire(self, site: Site[Any], shot: Shot) -> int:
        """Send a request; the status of its answer.

        :raises AssertionError: the server has failed at it.
        """
        self.requests += 1
        if self.requests % RENEWED_AFTER == 0:
            self.renew()
        tokens = {f"{{{name}}}": self.server.tokens[real] for name, real in self.names.items()}
        headers = {name: _with(value, tokens) for name, value in shot.headers.items()}
        target = _with(shot.target, {quoted(name).lower(): token for name, token in tokens.items()})
        if shot.signs:
            headers["Authorization"] = self.server.sign(shot.method, target, signed_form(shot.body))
        with capture_logs() as lines:
            answer = self.server.send(site, request(shot.method, target, shot.body, headers))
        failures = [line for line in lines if line["log_level"] in ("error", "critical", "exception")]
        assert not failures, failures
        # 502 and 503 say that somebody else is not there.
        assert answer.status < 500 or answer.status in (502, 503), answer
        if answer.status == 200 and ("logout" in target or "/account/password" in target):
            self.renew()
        return answer.status

    def look_after(self) -> None:
        """See that the server is well, and has kept nothing of it all."""
        self.renew()
        for site in (self.server.client_site, self.server.federation_site):
            self.server.loop.until(partial(_is_idle, site))
            assert not site.connections
            assert site.budget.total == 0
            assert not site.budget._by_address
            assert not site._by_address


def _is_idle(site: Site[Any]) -> bool:
    return site.in_flight == 0


def _with(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def signed_form(body: bytes | None) -> bytes | None:
    """The canonical form of a body, which is what is signed; anything, if it has none."""
    try:
        value = None if not body else decode(body)
        return None if value is None else encode_content(value)
    except (MatrixError, RecursionError, ValueError):
        return b"{}"


def resident_bytes() -> int:
    """Memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with inside(tmp_path_factory.mktemp("inside")) as server:
        yield Scene(server)


def run(site: Site[Any], scene: Scene, *, signs: bool) -> Counter[int]:
    """Make requests; how many were answered with each status."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=not BY_HAND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(tries(site.router))
    def fire(chosen: tuple[str, Route[Any], Random]) -> None:
        template, route, random = chosen
        shot = Maker(random, scene.known, TOKENS).shot(template, route, signs=signs)
        note(repr(shot)[:5000])
        statuses[scene.fire(site, shot)] += 1

    fire()
    scene.look_after()
    return statuses


@pytest.mark.timeout(0 if BY_HAND else 300)
@pytest.mark.parametrize("side", ["clients", "servers"])
def test_every_route_answers_whatever_it_is_asked(scene: Scene, side: str) -> None:
    """SEC-1, API-3."""
    site = scene.server.client_site if side == "clients" else scene.server.federation_site
    statuses = run(site, scene, signs=side == "servers")
    # Otherwise most would have ended at the door.
    assert statuses[200] > EXAMPLES / 10, statuses
    assert len(statuses) >= 5, statuses
    if BY_HAND:
        before = resident_bytes()
        run(site, scene, signs=side == "servers")
        grown = resident_bytes() - before
        assert grown < GROWTH, f"after {scene.requests} requests, {EXAMPLES} more took {grown} bytes"


@pytest.mark.timeout(0 if BY_HAND else 300)
def test_every_route_of_an_identity_server_answers_whatever_it_is_asked(tmp_path: Path) -> None:
    """SEC-1, ID-1."""
    texts = ["email", "msisdn", "a@b.example", "+4930123456", "@alice:us.example", "!r:us.example", "s" * 20, "sha256"]
    known = Known({}, texts, lambda _: [{}], lambda _random, _step: ("", "", {}))
    statuses: Counter[int] = Counter()
    with identity_inside(tmp_path) as (loop, site):

        @settings(max_examples=EXAMPLES // 3, derandomize=not BY_HAND, deadline=None, database=None)
        @given(tries(site.router))
        def fire(chosen: tuple[str, Route[Any], Random]) -> None:
            template, route, random = chosen
            shot = Maker(random, known, TOKENS).shot(template, route, signs=False)
            note(repr(shot)[:5000])
            with capture_logs() as lines:
                answer = exchange(loop, site, request(shot.method, shot.target, shot.body, shot.headers))
            assert not [line for line in lines if line["log_level"] in ("error", "critical", "exception")]
            assert answer.status < 500 or answer.status in (502, 503), answer
            statuses[answer.status] += 1

        fire()
        loop.until(lambda: site.in_flight == 0)
        assert site.budget.total == 0
    assert len(statuses) >= 4, statuses


#: What the server once failed at: method, path, body; "{room}" stands for a room of the scene. All are signed.
FOUND = {
    "an invite that is no object": (
        "PUT",
        "/_matrix/federation/v1/exchange_third_party_invite/{room}",
        b'{"sender":"@a:us.example","state_key":"@b:peer.example","content":{"third_party_invite":"x"}}',
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(scene: Scene, name: str) -> None:
    """API-3: each of these was answered with 500."""
    method, path, body = FOUND[name]
    site = scene.server.federation_site if "/federation/" in path else scene.server.client_site
    target = path.replace("{room}", quoted(scene.room.room_id))
    shot = Shot(method, target, {}, body, signs=site is scene.server.federation_site)
    assert 400 <= scene.fire(site, shot) < 500
