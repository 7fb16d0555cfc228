"""Nothing that anybody can send makes the server fail, or leaves anything half-done.

That the server's log shows no failure either is checked after every test, by the fixture `server`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scenarios.conftest import People, Unique, every_room_version
from tests.support.client import (
    PASSWORD,
    PREFIX,
    Client,
    Json,
    Pipeline,
    bad_json,
    ids,
    quote,
    refused,
    state_path,
    texts,
)
from tests.support.server import HomeServer

LARGEST_INTEGER = 2**53 - 1
TEXT = {"msgtype": "m.text", "body": "hello"}


@pytest.fixture(autouse=True)
def _still_works(people: People) -> Iterator[None]:
    """After each test people still talk."""
    yield
    dave = people("dave")
    room = dave.create_room()
    assert texts([dave.event(dave.send(room, "still here"))]) == ["still here"]


def _endpoints_with_a_body(room: str) -> list[tuple[str, str]]:
    return [
        ("POST", "/register"),
        ("POST", "/login"),
        ("POST", "/createRoom"),
        ("PUT", "/createRoom/txn"),
        ("PUT", f"/directory/room/{quote('#alias:localhost')}"),
        ("POST", f"/rooms/{room}/invite"),
        ("POST", f"/rooms/{room}/kick"),
        ("PUT", f"/rooms/{room}/ban/txn"),
        ("POST", f"/rooms/{room}/unban"),
        ("POST", f"/rooms/{room}/send/m.room.message"),
        ("PUT", f"/rooms/{room}/send/m.room.message/txn"),
        ("PUT", f"/rooms/{room}/state/m.room.topic"),
        ("PUT", f"/rooms/{room}/state/m.room.member/{quote('@x:y')}"),
        ("POST", f"/rooms/{room}/redact/{quote('$event:localhost')}"),
    ]


# Bodies that are not what they should be.


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"hello",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 01}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\n"}',
        b'{"a": 1} {}',
        b"\x00",
        b"\xef\xbb\xbf{}x",
        b"a=1&b=2",
    ],
)
def test_body_that_is_not_json_is_refused(alice: Client, room: str, body: bytes) -> None:
    """API-3."""
    for method, path in _endpoints_with_a_body(room):
        with refused(400, "M_NOT_JSON"):
            alice.call(method, path, body)


@pytest.mark.parametrize("body", [[], [{}], "text", 5, True, False])
def test_body_that_is_not_an_object_is_refused(alice: Client, room: str, body: object) -> None:
    """API-3."""
    for method, path in _endpoints_with_a_body(room):
        with bad_json():
            alice.call(method, path, body)


@pytest.mark.parametrize("depth", [101, 5_000, 100_000])
def test_body_nested_too_deeply_is_refused(alice: Client, room: str, depth: int) -> None:
    """SEC-1."""
    for opening, closing in ((b'{"a":', b"}"), (b"[", b"]")):
        body = b'{"a":' + opening * depth + b"1" + closing * depth + b"}"
        for method, path in _endpoints_with_a_body(room):
            with bad_json():
                alice.call(method, path, body)


def test_brackets_within_a_string_are_not_nesting(alice: Client, room: str) -> None:
    """EVT-1."""
    event_id = alice.send(room, '[{"\\' * 1000)
    assert alice.event(event_id)["content"]["body"] == '[{"\\' * 1000


@every_room_version
def test_content_may_be_nested_a_good_deal(alice: Client, room: str) -> None:
    """EVT-1."""
    content: Json = {"leaf": 1}
    for level in range(80):
        content = {"a": [content]} if level % 8 == 0 else {"a": content}
    event_id = alice.send_event(room, "org.example.tree", content)
    assert alice.event(event_id)["content"] == content


WRONG_FIELDS: list[tuple[str, Json]] = [
    ("/createRoom", {"visibility": "secret"}),
    ("/createRoom", {"visibility": 1}),
    ("/createRoom", {"name": 5}),
    ("/createRoom", {"topic": []}),
    ("/createRoom", {"invite": "@x:y"}),
    ("/createRoom", {"invite": [5]}),
    ("/createRoom", {"invite": ["nobody"]}),
    ("/createRoom", {"room_alias_name": 5}),
    ("/createRoom", {"room_alias_name": ""}),
    ("/createRoom", {"room_alias_name": "a:b"}),
    ("/createRoom", {"room_alias_name": "x" * 300}),
    ("/createRoom", {"room_alias_name": "a\u0000b"}),
    *(
        (f"/rooms/{{room}}/{action}", body)
        for action in ("invite", "kick", "ban", "unban")
        for body in (
            {},
            {"user_id": None},
            {"user_id": 5},
            {"user_id": ["@x:y"]},
            {"user_id": "nobody"},
            {"user_id": "@x\u0000:y"},
            {"user_id": "@" + "x" * 300 + ":y"},
        )
    ),
    ("/rooms/{room}/kick", {"user_id": "@x:y", "reason": 5}),
    ("/login", {}),
    ("/login", {"type": 5}),
    ("/login", {"type": "m.login.password"}),
    ("/login", {"type": "m.login.password", "user": 5, "password": PASSWORD}),
    ("/login", {"type": "m.login.password", "user": "x", "password": []}),
    ("/login", {"type": "m.login.password", "user": "x"}),
    ("/register", {}),
    ("/register", {"type": "m.login.password", "user": ["x"], "password": PASSWORD}),
    ("/register", {"type": "m.login.password", "user": "x", "password": {"a": 1}}),
    ("/register", {"type": "m.login.password", "user": "x", "password": None}),
    ("/register", {"type": "m.login.password", "user": "a\u0000b", "password": PASSWORD}),
    ("/register", {"type": "m.login.password", "user": "x" * 300, "password": PASSWORD}),
]


@pytest.mark.parametrize(("path", "body"), WRONG_FIELDS)
def test_field_of_the_wrong_type_is_refused(alice: Client, room: str, path: str, body: Json) -> None:
    """API-3, API-7: and nothing is left of the attempt."""
    rooms, history = set(alice.synced_rooms()), ids(alice.history(room))
    with bad_json():
        alice.call("POST", path.format(room=room), body)
    assert set(alice.synced_rooms()) == rooms
    assert ids(alice.history(room)) == history


@pytest.mark.parametrize("body", [{}, {"room_id": 5}, {"room_id": "nowhere"}])
def test_alias_for_something_that_is_no_room_is_refused(alice: Client, unique: Unique, body: Json) -> None:
    """API-3."""
    alias = f"#{unique('nothing')}:{alice.server.name}"
    with bad_json():
        alice.call("PUT", f"/directory/room/{quote(alias)}", body)
    with refused(404, "M_NOT_FOUND"):
        alice.call("GET", f"/directory/room/{quote(alias)}")


# Numbers.


@every_room_version
@pytest.mark.parametrize(
    "number", ["1.5", "1.0", "1e3", "-0.0", str(2**53), str(-(2**53)), str(2**64), "1" + "0" * 300]
)
def test_numbers_that_others_may_read_differently_are_refused(alice: Client, room: str, number: str) -> None:
    """EVT-1: wherever they stand in a content."""
    history = ids(alice.history(room))
    for body in ('{"n": %s}', '{"a": {"b": [1, {"n": %s}]}}'):
        for method, path in (("POST", "send/org.example.number"), ("PUT", "state/org.example.number")):
            with bad_json():
                alice.call(method, f"/rooms/{room}/{path}", (body % number).encode())
    assert ids(alice.history(room)) == history


@every_room_version
@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400])
def test_numbers_beyond_every_bound_are_refused(alice: Client, room: str, number: str) -> None:
    """EVT-1: whether as bad JSON or as no JSON."""
    answer = alice.request("POST", f"/rooms/{room}/send/org.example.number", f'{{"n": {number}}}'.encode())
    assert answer.status == 400
    assert texts(alice.history(room)) == []


@every_room_version
def test_largest_integers_are_kept(alice: Client, room: str) -> None:
    """EVT-1."""
    content = {"most": LARGEST_INTEGER, "least": -LARGEST_INTEGER, "truth": True}
    event_id = alice.send_event(room, "org.example.number", content)
    assert alice.event(event_id)["content"] == content


# Sizes.


def test_body_of_more_than_a_mebibyte_is_too_large(alice: Client, room: str) -> None:
    """API-3, SEC-1."""
    for method, path in _endpoints_with_a_body(room):
        with refused(413, "M_TOO_LARGE"):
            alice.call(method, path, b'{"a": "' + b"x" * 2**20 + b'"}')


@every_room_version
@pytest.mark.parametrize("field", ["name", "topic"])
def test_room_that_does_not_fit_into_its_events_is_not_made(alice: Client, field: str) -> None:
    """EVT-1, ROOM-1."""
    rooms = set(alice.synced_rooms())
    with refused(413, "M_TOO_LARGE"):
        alice.create_room(**{field: "x" * 900_000})
    assert set(alice.synced_rooms()) == rooms


@pytest.mark.parametrize("field", ["type", "user", "password", "session"])
def test_huge_fields_of_a_login_are_refused(server: HomeServer, field: str) -> None:
    """SEC-1."""
    body = {"type": "m.login.password", "user": "x", "password": PASSWORD, field: "x" * 900_000}
    for path in ("/login", "/register"):
        answer = Client(server).request("POST", path, body)
        assert answer.status in (400, 401, 403, 404)


@every_room_version
@pytest.mark.parametrize("length", [256, 5_000])
def test_overlong_event_types_and_state_keys_are_refused(alice: Client, room: str, length: int) -> None:
    """API-7, SEC-1."""
    with bad_json():
        alice.set_state(room, "x" * length, {})
    with bad_json():
        alice.set_state(room, "org.example", {}, "x" * length)
    with bad_json():
        alice.send_event(room, "x" * length, {})


def test_overlong_request_line_ends_the_connection_only(server: HomeServer) -> None:
    """SEC-1."""
    with Pipeline(server) as connection:
        connection.send_raw(b"GET /" + b"x" * 100_000)
        assert connection.refuses()


# NUL and other characters.


@every_room_version
def test_nul_in_names_is_refused(alice: Client, room: str) -> None:
    """API-7: PostgreSQL knows no NUL, so none may come near it."""
    for method, path, body in (
        ("PUT", state_path(room, "m.\x00"), {}),
        ("PUT", state_path(room, "org.example", "\x00"), {}),
        ("POST", f"/rooms/{room}/send/m.%00", {}),
        ("GET", f"/rooms/{quote('!x' + chr(0) + ':y')}/state", None),
        ("GET", f"/directory/room/{quote('#x' + chr(0) + ':y')}", None),
        ("POST", f"/join/{quote('!x' + chr(0) + ':y')}", {}),
        ("POST", f"/rooms/{room}/invite", {"user_id": "@x\x00:y"}),
        ("POST", f"/rooms/{room}/redact/{quote('$x' + chr(0) + ':y')}", {}),
    ):
        with bad_json():
            alice.call(method, path, body)


@every_room_version
def test_nul_elsewhere_does_no_harm(alice: Client, bob: Client, room: str) -> None:
    """EVT-1: in contents it is data like any other, wherever the server keeps parts of them."""
    alice.set_state(room, "m.room.name", {"name": "a\x00b"})
    alice.set_state(room, "m.room.topic", {"topic": "a\x00b"})
    assert alice.state_content(room, "m.room.name") == {"name": "a\x00b"}
    listed = _public_room(alice, room)
    assert (listed["name"], listed["topic"]) == ("a\x00b", "a\x00b")
    bob.join(room)
    alice.kick(room, bob, "a\x00b")
    assert alice.state_content(room, "m.room.member", bob.user_id)["reason"] == "a\x00b"
    event_id = alice.send_event(room, "m.room.message", TEXT, "a\x00b")
    assert alice.send_event(room, "m.room.message", TEXT, "a\x00b") == event_id
    for path in ("/login", "/register"):
        body = {"type": "m.login.password", "user": "nul-user", "password": "a\x00b long enough", "session": "\x00"}
        assert alice.request("POST", path, body).status < 500


def _public_room(client: Client, room: str) -> Json:
    since: str | None = None
    while True:
        page = client.call("GET", "/publicRooms", **{"from": since, "limit": 100})
        for listed in page["chunk"]:
            if listed["room_id"] == room:
                return dict(listed)
        assert page["chunk"], "the room is not in the list"
        since = page["end"]


STRANGE_NAMES = [
    "!",
    "$",
    "!:",
    "!a:b:c:d",
    "$a",
    "room",
    " ",
    "\n",
    "\u202e",
    "%",
    "%s",
    "{room}",
    "'; DROP TABLE events; --",
    "\\",
    "🐟",
    "x" * 4000,
    "../../etc/passwd",
    "null",
    "-1",
]


@every_room_version
@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_ids_of_any_shape_are_answered(alice: Client, room: str, name: str) -> None:
    """API-7."""
    there = quote(name)
    for method, path in (
        ("GET", f"/rooms/{there}/state"),
        ("GET", f"/rooms/{there}/members"),
        ("GET", f"/rooms/{there}/messages"),
        ("GET", f"/rooms/{there}/initialSync"),
        ("GET", f"/rooms/{there}/state/m.room.name"),
        ("PUT", f"/rooms/{there}/state/m.room.name"),
        ("POST", f"/rooms/{there}/join"),
        ("POST", f"/rooms/{there}/leave"),
        ("POST", f"/rooms/{there}/send/m.room.message"),
        ("POST", f"/rooms/{there}/invite"),
        ("GET", f"/events/{there}"),
        ("POST", f"/rooms/{room}/redact/{there}"),
        ("POST", f"/join/{there}"),
        ("GET", f"/directory/room/{there}"),
        ("PUT", f"/directory/room/{there}"),
        ("DELETE", f"/directory/room/{there}"),
    ):
        answer = alice.request(method, path, {"name": "x", **TEXT, "room_id": room, "user_id": "@x:y"})
        assert 400 <= answer.status < 500, f"{method} {path}: {answer.status} {answer.body!r}"
        assert answer.json["error"]


_any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_any_body = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        [
            *("user_id", "reason", "type", "user", "password", "session", "token", "room_id", "visibility"),
            *("room_alias_name", "name", "topic", "invite", "msgtype", "body", "membership", "url", "info"),
        ],
        _any_json,
    ),
)


@every_room_version
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=_any_body)
def test_no_body_makes_the_server_fail(alice: Client, room: str, body: Json) -> None:
    """API-3."""
    for method, path in _endpoints_with_a_body(room):
        answer = alice.request(method, path.replace("/txn", f"/{alice.new_txn()}"), body)
        assert answer.status < 500, f"{method} {path} with {body}: {answer.body!r}"
        assert isinstance(answer.json, dict)


# Tokens in the wrong hands, or made up.


def test_stream_token_of_another_user_shows_nothing_of_theirs(alice: Client, bob: Client) -> None:
    """EVS-2."""
    room = alice.create_room()
    token = alice.present()
    alice.send(room, "secret")
    page = bob.events(token)
    assert page["chunk"] == []
    assert ids(bob.events(page["end"])["chunk"]) == []


@every_room_version
def test_nobody_acts_for_another_user(alice: Client, bob: Client, carol: Client, room: str) -> None:
    """MEM-1: one's token is good for oneself."""
    alice.invite(room, carol)
    bob.join(room)
    for membership in ("join", "leave"):
        with refused(403, "M_FORBIDDEN"):
            bob.set_state(room, "m.room.member", {"membership": membership}, carol.user_id)
    bob.call("POST", f"/rooms/{room}/leave", {"user_id": alice.user_id}, user_id=alice.user_id)
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "leave", carol.user_id: "invite"}


def _made_up_tokens(real: str) -> list[str]:
    nines = "".join("9" if sign.isdigit() else sign for sign in real)
    return [
        *("x", "-1", "0", "s", "s_", "END", "null", "0.5", "\x00", "日本", " ", "9" * 30, "1" * 5000),
        *(nines, nines * 2, real[::-1] + "!", "-" + real, real + "x", real + "_", real + "\n"),
    ]


def test_made_up_paging_tokens_are_refused(alice: Client, room: str) -> None:
    """EVS-6."""
    for token in _made_up_tokens(alice.messages(room)["start"]):
        for parameter in ("from", "to"):
            with refused(400, "M_BAD_PAGINATION"):
                alice.call("GET", f"/rooms/{room}/messages", **{parameter: token})


def test_made_up_stream_tokens_are_refused(alice: Client) -> None:
    """EVS-1: also those from the future, which would hide what comes until then."""
    for token in _made_up_tokens(alice.present()):
        with refused(400, "M_BAD_PAGINATION"):
            alice.events(token)


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "ten", "1.5", "", "9" * 40, "१"])
def test_page_sizes_out_of_bounds_are_refused(alice: Client, room: str, limit: str) -> None:
    """EVS-6."""
    with refused(400, "M_BAD_PAGINATION"):
        alice.messages(room, limit=limit)


@pytest.mark.parametrize("direction", ["x", "bf", "forwards", ""])
def test_unknown_direction_is_refused(alice: Client, room: str, direction: str) -> None:
    """EVS-6."""
    answer = alice.request("GET", f"/rooms/{room}/messages?dir={direction}")
    assert answer.status == 400


@pytest.mark.parametrize("timeout", ["-1", "soon", "1.5", "9" * 40])
def test_timeouts_that_are_none_are_refused(alice: Client, timeout: str) -> None:
    """EVS-1."""
    assert alice.request("GET", "/events", timeout=timeout).status == 400


# At the same time.


def test_of_concurrent_registrations_exactly_one_wins(server: HomeServer, unique: Unique) -> None:
    """LOGIN-3: in whatever case the name is written."""
    name = unique("contested")
    nobody = Client(server)
    attempts = [
        nobody.start("POST", "/register", {"type": "m.login.password", "user": spelling, "password": PASSWORD})
        for spelling in [name, name.upper(), name.title(), f"@{name}:{server.name}"] * 2
    ]
    answers = [attempt.answer() for attempt in attempts]
    winners = [answer.json for answer in answers if answer.status == 200]
    losers = [answer.json["errcode"] for answer in answers if answer.status == 400]
    assert [winner["user_id"] for winner in winners] == [f"@{name}:{server.name}"]
    assert losers == ["M_USER_IN_USE"] * 7
    assert nobody.call("GET", "/initialSync", token=winners[0]["access_token"])["rooms"] == []


def test_of_rooms_created_at_once_with_one_alias_exactly_one_is_made(alice: Client, unique: Unique) -> None:
    """ROOM-1."""
    name = unique("contested")
    attempts = [alice.start("POST", "/createRoom", {"room_alias_name": name}) for _ in range(6)]
    answers = [attempt.answer() for attempt in attempts]
    [made] = [answer.json["room_id"] for answer in answers if answer.status == 200]
    assert [a.json["errcode"] for a in answers if a.status == 400] == ["M_ROOM_IN_USE"] * 5
    assert set(alice.synced_rooms()) == {made}
    alias = f"#{name}:{alice.server.name}"
    assert alice.call("GET", f"/directory/room/{quote(alias)}")["room_id"] == made


def test_of_concurrent_claims_to_an_alias_exactly_one_wins(alice: Client, unique: Unique) -> None:
    """ROOM-3."""
    alias = f"#{unique('contested')}:{alice.server.name}"
    path = f"/directory/room/{quote(alias)}"
    rooms = [alice.create_room() for _ in range(5)]
    attempts = {room: alice.start("PUT", path, {"room_id": room}) for room in rooms}
    won = [room for room, attempt in attempts.items() if attempt.answer().status == 200]
    assert len(won) == 1
    assert alice.call("GET", path)["room_id"] == won[0]


@every_room_version
def test_of_concurrent_joins_one_is_enough(alice: Client, bob: Client, room: str) -> None:
    """MEM-1: two clients of one user that join at once do not fail."""
    attempts = [bob.start("POST", f"/join/{room}", {}) for _ in range(5)]
    assert [attempt.json()["room_id"] for attempt in attempts] == [room] * 5
    assert alice.members(room)[bob.user_id] == "join"


# Below JSON.


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"POST /_matrix/client/api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /_matrix/client/api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\n{}",
        b"POST /_matrix/client/api/v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_matrix/client/api/v1/login HTTP/1.1\r\nHost: x\r\n: novalue\r\n\r\n",
        b"GET /_matrix/client/api/v1/login HTTP/1.1\r\n" + b"X-Long: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_http_harms_nobody_else(server: HomeServer, alice: Client, garbage: bytes) -> None:
    """SEC-1."""
    with Pipeline(server) as connection:
        connection.send_raw(garbage)
        assert alice.initial_sync()["rooms"] == []


def test_half_a_request_and_away_harms_nobody_else(server: HomeServer, alice: Client, room: str) -> None:
    """SEC-1."""
    request = f"POST {PREFIX}/rooms/{room}/send/m.room.message?access_token={alice.token} HTTP/1.1\r\n"
    for cut in (10, len(request), len(request) + 30):
        with Pipeline(server) as connection:
            connection.send_raw((request + "Host: x\r\nContent-Length: 500\r\n\r\n{")[:cut].encode())
    assert texts(alice.history(room)) == []


def test_chunked_bodies_are_read(server: HomeServer, alice: Client, room: str) -> None:
    """API-1: clients need not say how long a body will be."""
    head = f"POST {PREFIX}/rooms/{room}/send/m.room.message?access_token={alice.token} HTTP/1.1\r\n"
    with Pipeline(server) as connection:
        connection.send_raw(f"{head}Host: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for part in ('{"msgtype": "m.te', 'xt", "body": "in ', 'pieces"}', ""):
            connection.send_raw(f"{len(part):x}\r\n{part}\r\n".encode())
        answer: Any = connection.answer()
    assert answer.status == 200
    assert texts(alice.history(room)) == ["in pieces"]


def test_chunked_body_that_grows_too_large_is_refused(server: HomeServer, alice: Client, room: str) -> None:
    """API-3, SEC-1."""
    head = f"POST {PREFIX}/rooms/{room}/send/m.room.message?access_token={alice.token} HTTP/1.1\r\n"
    part = b"x" * 65_536
    with Pipeline(server) as connection:
        connection.send_raw(f"{head}Host: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(20):
            connection.send_raw(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.send_raw(b"0\r\n\r\n")
        answer = connection.answer()
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
