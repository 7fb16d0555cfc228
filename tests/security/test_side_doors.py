"""Doors beside the one that is guarded: each rule that holds on one path is tried on all of them.

The whole server is asked, by the tables of its routes, so that a new route is tried here without anything being
written; where one is an exception, it has to be said here.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

import synapse_like
from synapse_like.http.requests import Body
from synapse_like.http.routing import Auth, Route
from synapse_like.protocol.request_signing import encode_content
from synapse_like.protocol.room_versions import rules_for
from synapse_like.storage import accounts
from tests.fuzz.requests import routes_of
from tests.http.site_case import Answer
from tests.support.inside import (
    CLIENT_V1,
    FEDERATION_V1,
    FEDERATION_V2,
    PEER,
    US,
    Inside,
    inside,
    quoted,
    request,
)
from tests.support.peer_rooms import PeerRoom

BOB, EVE = f"@bob:{PEER}", f"@eve:{PEER}"
SECRET = "the-cat-is-out-of-the-bag"

#: What anybody may ask without a token, and why that is right: there is nothing of anybody's in it, or it is how one
#: gets a token, or whoever knows its long random name may have it.
OPEN_TO_CLIENTS = {
    *("/register", "/login", "/login/reset", "/publicRooms", "/directory/room/{alias}"),
    *("/profile/{user_id}", "/profile/{user_id}/{field}"),
}
OPEN_TO_ALL = re.compile(
    r"/|/webclient/.*|/health|/_matrix/(content|media)/.*|/_matrix/client/(pages|api/v1/(login|register)/fallback).*"
)
#: What other servers may ask without signing: keys, without which nobody could sign; files; and what an identity server
#: tells, which signs it itself.
OPEN_TO_SERVERS = re.compile(r"/_matrix/key/v2/.*|/_matrix/(content|media)/.*|/_matrix/federation/v1/3pid/onbind")


class Scene:
    """A room of alice's, with a secret in it. Bob of another server is in it, dave has left before the secret was told,
    mallory was banned, oscar was invited, root is an administrator of the server and nothing else."""

    def __init__(self, server: Inside) -> None:
        self.server = server
        for name in ("alice", "dave", "mallory", "oscar", "root"):
            server.register(name)
        self.room_id, self.alias = self.make_room("here")
        for name in ("dave", "mallory"):
            server.ask("POST", f"/join/{quoted(self.room_id)}", {}, name)
        server.ask("POST", f"{self.place}/leave", {}, "dave")
        self.ask("POST", "/ban", {"user_id": f"@mallory:{US}"})
        self.ask("POST", "/invite", {"user_id": f"@oscar:{US}"})
        self.event_id = self.ask("POST", "/send/m.room.message", {"msgtype": "m.text", "body": SECRET})["event_id"]
        self.ask("PUT", "/state/x.secret/key", {"x": SECRET})
        done: list[object] = []
        server.server.database.write("root", accounts.set_admin, f"@root:{US}", is_admin=True).addCallback(done.append)
        server.loop.until(lambda: bool(done))
        server.server.database.caches.clear()

    @property
    def place(self) -> str:
        return f"/rooms/{quoted(self.room_id)}"

    def make_room(self, alias: str) -> tuple[str, str]:
        wish = {"visibility": "public", "room_alias_name": alias}
        made = self.server.ask("POST", "/createRoom", wish, "alice")
        return made["room_id"], made["room_alias"]

    def ask(self, method: str, path: str, body: object) -> Any:
        return self.server.ask(method, self.place + path, body, "alice")

    def values(self) -> dict[str, str]:
        """What stands in paths and queries."""
        return {
            "room": self.room_id,
            "alias": self.alias,
            "event_id": self.event_id,
            "type": "x.secret",
            "state_key": "key",
            "user": f"@alice:{US}",
            "user_id": f"@alice:{US}",
            "field": "displayname",
            "pdu_id": self.event_id[1:].partition(":")[0],
            "origin": US,
            "txn_id": "1",
            "server": US,
            "kind": "profile",
            "content_id": "x",
        }

    def target(self, template: str, query: str = "") -> str:
        values = self.values()
        return re.sub(r"\{(\w+)\}", lambda name: quoted(values.get(name[1], "x")), template) + query

    def client(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        return self.server.send(self.server.client_site, request(method, target, body, headers))

    def peer(self, method: str, target: str, body: object = None, *, signs: bool = True) -> Answer:
        content = None if body is None else encode_content(body)
        headers = {"Authorization": self.server.sign(method, target, content)} if signs else {}
        return self.server.send(self.server.federation_site, request(method, target, content, headers))

    def members(self) -> Mapping[str, str]:
        """Who is what in the room."""
        chunk = self.server.ask("GET", f"{self.place}/members", None, "alice")["chunk"]
        return {event["state_key"]: event["content"]["membership"] for event in chunk}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inside")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Iterator[Scene]:
    with inside(folder) as server:
        yield Scene(server)


def client_routes(scene: Scene) -> list[tuple[str, Route[Any]]]:
    return routes_of(scene.server.client_site.router)


def a_body(route: Route[Any]) -> bytes | None:
    return None if route.body is Body.NONE else b"{}"


# Who asks.


def test_every_route_for_clients_wants_a_token_but_those_that_are_named(scene: Scene) -> None:
    """API-2."""
    for template, route in client_routes(scene):
        is_open = template.removeprefix(CLIENT_V1) in OPEN_TO_CLIENTS or OPEN_TO_ALL.fullmatch(template)
        if is_open and route.body is not Body.STREAM:
            continue
        assert route.auth is Auth.USER, template
        for headers in ({}, {"Authorization": "Bearer x"}):
            answer = scene.client(route.method, scene.target(template), a_body(route), **headers)
            assert answer.status == 401, (route.method, template, headers)


def test_every_route_for_servers_wants_a_signature_but_those_that_are_named(scene: Scene) -> None:
    """SEC-8, FED-9: also that a signature is good for one path only, whatever stands there."""
    for template, route in routes_of(scene.server.federation_site.router):
        if OPEN_TO_SERVERS.fullmatch(template):
            continue
        target = scene.target(template)
        body = {} if route.body is not Body.NONE else None
        assert scene.peer(route.method, target, body, signs=False).status == 401, template
        content = None if body is None else encode_content(body)
        elsewhere = {"Authorization": scene.server.sign(route.method, target + "?x=1", content)}
        answer = scene.server.send(scene.server.federation_site, request(route.method, target, content, elsewhere))
        assert answer.status == 401, template


# Who sees what.


@pytest.mark.parametrize("user", ["dave", "mallory", "oscar", "root", None])
def test_no_route_shows_a_room_to_who_is_not_in_it(scene: Scene, user: str | None) -> None:
    """EVS-2, SEC-11: also not to who was in it before, nor to the administrator, by any path, query or token."""
    headers = {"Authorization": f"Bearer {scene.server.tokens[user]}"} if user else {}
    queries = ("", "?from=s1_0_0&limit=1000&timeout=0", "?dir=f&from=s0_0_0&limit=1000", "?limit=0&archived=true")
    seen = 0
    for template, route in client_routes(scene):
        if route.method != "GET":
            continue
        for query in queries:
            answer = scene.client("GET", scene.target(template, query), None, **headers)
            assert SECRET.encode() not in answer.body, (template, query, answer)
            seen += answer.status == 200
    # Most of them say something; it is not that nobody could ask.
    assert seen > 10


def test_who_is_in_it_finds_the_secret_by_the_same_ways(scene: Scene) -> None:
    """Else the test above would prove nothing."""
    headers = {"Authorization": f"Bearer {scene.server.tokens['alice']}"}
    found = {
        template
        for template, route in client_routes(scene)
        if route.method == "GET" and SECRET.encode() in scene.client("GET", scene.target(template), **headers).body
    }
    assert len(found) >= 6, found


def test_no_route_shows_a_room_to_a_server_that_is_not_in_it(scene: Scene) -> None:
    """SEC-11."""
    for template, route in routes_of(scene.server.federation_site.router):
        body = {} if route.body is not Body.NONE else None
        for query in ("", f"?event_id={quoted(scene.event_id)}", f"?v={quoted(scene.event_id)}&limit=100"):
            answer = scene.peer(route.method, scene.target(template, query), body)
            assert SECRET.encode() not in answer.body, (template, query)
    missing = {"earliest_events": [], "latest_events": [scene.event_id], "limit": 100}
    answer = scene.peer("POST", f"{FEDERATION_V1}/get_missing_events/{quoted(scene.room_id)}", missing)
    assert (answer.status, SECRET.encode() in answer.body) == (403, False)


@pytest.mark.parametrize("user", ["dave", "mallory", "oscar", "root"])
def test_who_is_not_in_a_room_changes_nothing_in_it(scene: Scene, user: str) -> None:
    """SEC-6, PERM-4: an administrator of the server is nobody in particular in its rooms."""
    before = scene.server.ask("GET", f"{scene.place}/state", None, "alice")
    bodies: list[dict[str, Any]] = [
        {"msgtype": "m.text", "body": "x"},
        {"user_id": f"@alice:{US}"},
        {"user_id": f"@mallory:{US}", "reason": "x"},
        {"level": 100, f"@{user}:{US}": 100},
        {"typing": True},
    ]
    headers = {"Authorization": f"Bearer {scene.server.tokens[user]}"}
    own = ("/join/{room}", "/rooms/{room}/join", "/rooms/{room}/leave")
    for template, route in client_routes(scene):
        path = template.removeprefix(CLIENT_V1).removesuffix("/{txn_id}")
        if route.method == "GET" or "{room}" not in path or path in own:
            continue
        for body in bodies:
            for state in ("x.secret", "m.room.power_levels", "m.room.member", "m.room.ban_level"):
                target = scene.target(template.replace("{type}", state))
                answer = scene.client(route.method, target, orjson.dumps(body), **headers)
                assert answer.status >= 400, (route.method, target, body)
    after = scene.server.ask("GET", f"{scene.place}/state", None, "alice")
    ages = [[{**event, "age": 0} for event in state] for state in (before, after)]
    assert ages[0] == ages[1]


# What others are believed.


def test_event_of_one_room_is_not_taken_by_the_path_of_another(scene: Scene) -> None:
    """SEC-8: what is checked for the room in the path must not be done in the one of the event."""
    other_id, _ = scene.make_room("there")
    room = PeerRoom(rules_for("spec-2014"), scene.room_id, PEER, scene.server.peer_key)
    before = scene.members()
    for step in ("join", "leave", "knock"):
        begun = scene.peer("GET", f"{FEDERATION_V1}/make_{step}/{quoted(other_id)}/{quoted(EVE)}?ver=spec-2014")
        if begun.status != 200:
            continue
        event = room.complete(begun.json["event"])
        for prefix in (FEDERATION_V1, FEDERATION_V2):
            target = f"{prefix}/send_{step}/{quoted(scene.room_id)}/{quoted(room.id_of(event))}"
            assert 400 <= scene.peer("PUT", target, event).status < 500, target
            target = f"{prefix}/send_{step}/{quoted(other_id)}/{quoted(f'$another:{PEER}')}"
            assert 400 <= scene.peer("PUT", target, event).status < 500, target
    assert scene.members() == before
    theirs = PeerRoom.create(rules_for("1"), BOB, PEER, scene.server.peer_key)
    invite = theirs.make(BOB, "m.room.member", {"membership": "invite"}, f"@alice:{US}")
    body = {"room_version": "1", "event": invite, "invite_room_state": []}
    for room_id in (scene.room_id, f"!other:{PEER}"):
        target = f"{FEDERATION_V2}/invite/{quoted(room_id)}/{quoted(theirs.id_of(invite))}"
        answer = scene.peer("PUT", target, body)
        assert 400 <= answer.status < 500
        assert b"signatures" not in answer.body


def test_nothing_is_signed_that_a_peer_supplied_beside_what_was_asked_for(scene: Scene) -> None:
    """SEC-3, SEC-8: of all that a server may send to be signed, only an invite to a user of ours comes back signed."""
    theirs = PeerRoom.create(rules_for("1"), BOB, PEER, scene.server.peer_key)
    wrong = [
        theirs.make(BOB, "m.room.member", {"membership": "invite"}, f"@alice:{PEER}"),
        theirs.make(f"@alice:{US}", "m.room.member", {"membership": "join"}, f"@alice:{US}"),
        theirs.make(BOB, "m.room.member", {"membership": "ban"}, f"@alice:{US}"),
        theirs.make(BOB, "m.room.power_levels", {"users": {EVE: 100}}, ""),
        theirs.make(BOB, "m.room.message", {"msgtype": "m.text", "body": "x"}),
        theirs.make(f"@root:{US}", "m.room.member", {"membership": "invite"}, f"@alice:{US}"),
    ]
    for event in wrong:
        body = {"room_version": "1", "event": event, "invite_room_state": []}
        target = f"{FEDERATION_V2}/invite/{quoted(theirs.room_id)}/{quoted(theirs.id_of(event))}"
        answer = scene.peer("PUT", target, body)
        assert 400 <= answer.status < 500, event
        assert b"signatures" not in answer.body


# What leaks.


def test_no_path_leads_to_another_file(scene: Scene, folder: Path) -> None:
    """MEDIA-1: whatever stands in the path of a file, it is none of the others on the disk."""
    upload = scene.client(
        "POST", "/_matrix/media/v1/upload", b"hello", Authorization=f"Bearer {scene.server.tokens['alice']}"
    )
    content_id = upload.json["content_uri"].rpartition("/")[2]
    key = (folder / "signing.key").read_bytes().split()[2]
    stored = [str(path.relative_to(folder)) for path in (folder / "content").rglob("*") if path.is_file()]
    assert stored
    ways = [
        "../signing.key",
        "../../signing.key",
        "..",
        ".",
        "/etc/passwd",
        "signing.key\0",
        content_id + "/../x",
        *stored,
    ]
    ways += [f"../{way}" for way in stored] + [str(folder / "signing.key"), "....//signing.key", "..\\signing.key"]
    templates = [
        (site, template)
        for site in (scene.server.client_site, scene.server.federation_site)
        for template, route in routes_of(site.router)
        if "{content_id}" in template and route.method == "GET"
    ]
    assert len(templates) >= 6
    for site, template in templates:
        for way in ways:
            for segment in (quoted(way), way.replace("\0", "%00"), quoted(quoted(way))):
                for server in (US, "..", "../..", quoted("../..")):
                    target = template.replace("{content_id}", segment).replace("{server}", server)
                    target = target.replace("{filename}", "x") + "?width=32&height=32"
                    answer = scene.server.send(site, request("GET", target.replace(" ", "%20"), None, {}))
                    assert answer.status >= 400, target
                    assert key not in answer.body
                    assert b"root:" not in answer.body


def test_nothing_secret_is_logged_by_any_route(scene: Scene) -> None:
    """SEC-10: neither tokens, wherever they stand, nor passwords, nor what people say, nor what stands in paths."""
    server, word = scene.server, "hunter2-hunter2"
    server.register("lena")
    token = server.tokens["lena"]
    said = {"type": "m.login.password", "user": "lena", "password": word, "new_password": word, "body": word}
    said |= {"msgtype": "m.text", "topic": word, "displayname": word, "email": f"{word}@example.org", "name": word}
    sites = ((server.client_site, {"Authorization": f"Bearer {token}"}), (server.federation_site, {}))
    with capture_logs() as lines:
        for site, headers in sites:
            for template, route in routes_of(site.router):
                if "logout" in template:
                    continue
                target = re.sub(r"\{(?!room|user|server|origin)(\w+)\}", word, template)
                query = f"?access_token={token}&session={word}&address={word}&medium=email&code={word}&field={word}"
                body = None if route.body is Body.NONE else orjson.dumps(said)
                server.send(site, request(route.method, scene.target(target, query), body, headers))
                server.send(site, request(route.method, scene.target(target, query), b"{" + word.encode(), headers))
    assert len([line for line in lines if line["event"] == "answered"]) > 200
    for line in lines:
        assert token not in repr(line), line
        assert word not in repr(line), line


def test_two_lengths_of_a_body_are_no_request(scene: Scene) -> None:
    """Who stands between might read another one than we do, and take one's request for part of another's."""
    token = scene.server.tokens["alice"].encode()
    head = b"POST /_matrix/client/api/v1/logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + b"\r\n"
    for lengths in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 4, 4\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length : 4\r\n",
        b"Content-Length: 0x4\r\n",
    ):
        answer = scene.server.send(scene.server.client_site, head + lengths + b"\r\n0\r\n\r\n")
        assert answer.status in (400, 501), lengths
    assert scene.server.ask("GET", "/account/3pid", None, "alice") == {"threepids": []}


# What takes too long.


def patterns() -> dict[str, re.Pattern[Any]]:
    """Every regular expression that stands in a module of the server."""
    found = {}
    for module in pkgutil.walk_packages(synapse_like.__path__, "synapse_like."):
        if module.name.endswith(("__main__", "thumbnail_process")):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, re.Pattern):
                found[f"{module.name}.{name}"] = value
    return found


def test_no_regular_expression_takes_long_for_what_was_made_for_it() -> None:
    """SEC-1: 64 KiB of text, the most that an event has, made of what makes a careless one go back and forth."""
    found = patterns()
    assert len(found) > 30
    pieces = ("\\", "\t", *'a-10 =,%/+@:."(', "a.", "a-", "1.", "a=", '",', "@a.", "a:1", "[:")
    for name, pattern in found.items():
        for piece in pieces:
            for end in ("", "!", "\0"):
                text: Any = piece * (65536 // len(piece)) + end
                if isinstance(pattern.pattern, bytes):
                    text = text.encode()
                began = time.thread_time()
                pattern.fullmatch(text)
                pattern.match(text)
                taken = time.thread_time() - began
                assert taken < 0.1, f"{name} takes {taken:.2f} s for {piece!r}"
