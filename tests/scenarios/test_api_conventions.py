"""How the API behaves wherever one touches it: forms, errors, tokens, retransmits, names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.conftest import FreshServer, People, Unique, any_process, every_room_version
from tests.support.client import (
    PASSWORD,
    Client,
    Json,
    bad_json,
    forbidden,
    ids,
    not_found,
    quote,
    refused,
    state_path,
    texts,
)
from tests.support.server import HomeServer

ROOM = "!room:localhost"
TEXT = {"msgtype": "m.text", "body": "hello"}

#: Everything that asks for a token, with parameters that need not exist.
AUTHENTICATED = [
    ("POST", "/logout"),
    ("POST", "/logout/all"),
    ("POST", "/createRoom"),
    ("PUT", "/createRoom/1"),
    ("PUT", "/directory/room/%23alias%3Alocalhost"),
    ("DELETE", "/directory/room/%23alias%3Alocalhost"),
    ("POST", f"/join/{ROOM}"),
    ("PUT", f"/join/{ROOM}/1"),
    *((method, f"/rooms/{ROOM}/{action}{txn}")
      for action in ("join", "leave", "invite", "kick", "ban", "unban", "send/m.room.message", "redact/$event")
      for method, txn in (("POST", ""), ("PUT", "/1"))),
    ("PUT", f"/rooms/{ROOM}/state/m.room.topic"),
    ("PUT", f"/rooms/{ROOM}/state/m.room.topic/key"),
    ("GET", f"/rooms/{ROOM}/state"),
    ("GET", f"/rooms/{ROOM}/state/m.room.topic"),
    ("GET", f"/rooms/{ROOM}/state/m.room.topic/key"),
    ("GET", f"/rooms/{ROOM}/members"),
    ("GET", f"/rooms/{ROOM}/messages"),
    ("GET", f"/rooms/{ROOM}/initialSync"),
    ("GET", "/initialSync"),
    ("GET", "/events"),
    ("GET", "/events/$event"),
]  # fmt: skip


# Form and headers.


def test_health_is_200_while_the_server_serves(server: HomeServer) -> None:
    assert Client(server).request("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/publicRooms", 200),
        ("GET", "/initialSync", 401),
        ("GET", "/nowhere", 404),
        ("DELETE", "/login", 405),
        ("POST", "/login", 400),
        ("GET", "/directory/room/%23nobody%3Alocalhost", 404),
    ],
)
def test_every_answer_is_json_that_any_web_page_may_read(
    server: HomeServer, method: str, path: str, status: int
) -> None:
    """API-1: also when it is an error."""
    answer = Client(server).request(method, path, {} if method == "POST" else None)
    assert answer.status == status
    assert answer.headers.get_content_type() == "application/json"
    assert isinstance(answer.json, dict)
    _assert_cors(answer.headers)


def test_answer_to_a_body_that_is_too_large_can_be_read_by_a_web_page(alice: Client, room: str) -> None:
    """API-1, API-3."""
    answer = alice.request("POST", f"/rooms/{room}/send/m.room.message", b'"' + b"x" * 1_100_000 + b'"')
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
    _assert_cors(answer.headers)


@pytest.mark.parametrize(
    "path",
    [
        *sorted({path for _, path in AUTHENTICATED}),
        *("/register", "/login", "/publicRooms", "/pushrules/", "/nowhere/at/all", "/_matrix/client/nowhere"),
    ],
)
def test_options_is_answered_on_every_path(server: HomeServer, path: str) -> None:
    """API-1: without a token, so that browsers may ask before they send."""
    answer = Client(server).request("OPTIONS", path)
    assert answer.status == 200
    _assert_cors(answer.headers)


def _assert_cors(headers: Any) -> None:
    assert headers["Access-Control-Allow-Origin"] == "*"
    methods = {word.strip() for word in headers["Access-Control-Allow-Methods"].split(",")}
    assert {"GET", "POST", "PUT", "DELETE", "OPTIONS"} <= methods
    allowed = {word.strip().lower() for word in headers["Access-Control-Allow-Headers"].split(",")}
    assert {"content-type", "authorization", "accept", "origin"} <= allowed


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", ""])
def test_any_content_type_is_accepted(alice: Client, room: str, content_type: str) -> None:
    """EVS-9."""
    path = f"/rooms/{room}/send/m.room.message"
    event_id = alice.call("POST", path, TEXT, headers={"Content-Type": content_type})["event_id"]
    assert alice.event(event_id)["content"] == TEXT


def test_unknown_query_parameters_are_ignored(alice: Client, room: str) -> None:
    """EVS-9."""
    event_id = alice.call("POST", f"/rooms/{room}/send/m.room.message", TEXT, colour="green")["event_id"]
    assert alice.call("GET", f"/events/{event_id}", user_id="@someone:else")["event_id"] == event_id


@every_room_version
def test_text_is_utf_8_both_ways(alice: Client, room: str) -> None:
    """API-1."""
    body = "žluťoučký 🐟 \u0000 \u202e 日本語"
    answer = alice.request("GET", f"/events/{quote(alice.send(room, body))}")
    assert answer.json["content"]["body"] == body
    assert "🐟".encode() in answer.body


# Tokens.


def test_token_is_taken_from_query_or_header(alice: Client) -> None:
    """API-2."""
    header = {"Authorization": f"Bearer {alice.token}"}
    assert alice.request("GET", "/initialSync").status == 200
    assert alice.request("GET", "/initialSync", token="", headers=header).status == 200


@pytest.mark.parametrize(("method", "path"), AUTHENTICATED)
def test_without_a_token_nothing_is_done(server: HomeServer, method: str, path: str) -> None:
    """API-2, API-3: a missing token and a wrong one are told apart."""
    client = Client(server)
    with refused(401, "M_MISSING_TOKEN"):
        client.call(method, path, {})
    with refused(401, "M_UNKNOWN_TOKEN"):
        client.call(method, path, {}, token="made-up")


@pytest.mark.parametrize("token", ["\u0000", "ä", "x" * 5000, "' OR 1=1 --", "Bearer"])
def test_strange_tokens_are_unknown(server: HomeServer, token: str) -> None:
    """API-3."""
    with refused(401, "M_UNKNOWN_TOKEN"):
        Client(server).call("GET", "/initialSync", token=token)


def test_empty_token_counts_as_none(server: HomeServer) -> None:
    """EVS-10."""
    client = Client(server)
    with refused(401, "M_MISSING_TOKEN"):
        client.call("GET", "/initialSync?access_token=")
    assert client.request("GET", "/publicRooms?access_token=").status == 200


def test_public_things_need_no_token(server: HomeServer, alice: Client, unique: Unique) -> None:
    """EVS-9."""
    name = unique("open")
    room = alice.create_room(visibility="public", room_alias_name=name)
    nobody = Client(server)
    assert nobody.call("GET", f"/directory/room/{quote(f'#{name}:{server.name}')}")["room_id"] == room
    assert nobody.call("GET", "/publicRooms")["chunk"]
    assert nobody.call("GET", "/login")["flows"]
    assert nobody.call("GET", "/register")["flows"]


# Paths and methods.


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nowhere",
        "/rooms",
        f"/rooms/{ROOM}",
        f"/rooms/{ROOM}/dance",
        "/login/",
        "/_matrix",
        "/_matrix/client/api/v2/login",
        "/_matrix/client/api/v1",
    ],
)
def test_unknown_path_is_unrecognized(alice: Client, path: str) -> None:
    """API-3."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        with refused(404, "M_UNRECOGNIZED"):
            alice.call(method, path, {})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/login"),
        ("PUT", "/register"),
        ("GET", "/createRoom"),
        ("POST", "/publicRooms"),
        ("POST", "/initialSync"),
        ("PUT", "/events"),
        ("POST", "/directory/room/%23a%3Ab"),
        ("DELETE", f"/rooms/{ROOM}/state/m.room.topic"),
        ("PATCH", f"/rooms/{ROOM}/messages"),
    ],
)
def test_wrong_method_is_unrecognized(alice: Client, method: str, path: str) -> None:
    """API-3."""
    with refused(405, "M_UNRECOGNIZED"):
        alice.call(method, path, {})


TWO_FORMS = [
    "/createRoom",
    f"/join/{ROOM}",
    *(f"/rooms/{ROOM}/{action}" for action in ("join", "leave", "invite", "kick", "ban", "unban")),
    f"/rooms/{ROOM}/send/m.room.message",
    f"/rooms/{ROOM}/redact/$event",
]


@pytest.mark.parametrize("path", TWO_FORMS)
def test_post_with_a_transaction_id_is_an_error(alice: Client, path: str) -> None:
    """API-5."""
    with refused(405, "M_UNRECOGNIZED"):
        alice.call("POST", f"{path}/11", {})


@pytest.mark.parametrize("path", TWO_FORMS)
def test_put_without_a_transaction_id_is_an_error(alice: Client, path: str) -> None:
    """API-5."""
    with refused(405, "M_UNRECOGNIZED"):
        alice.call("PUT", path, {})


def test_state_paths_take_put_only_and_no_transaction_id(alice: Client, room: str) -> None:
    """API-5."""
    with refused(405, "M_UNRECOGNIZED"):
        alice.call("POST", f"/rooms/{room}/state/m.example", {})
    with refused(405, "M_UNRECOGNIZED"):
        alice.call("POST", f"/rooms/{room}/state/m.example/key", {})
    with refused(404, "M_UNRECOGNIZED"):
        alice.call("PUT", f"/rooms/{room}/state/m.example/key/11", {})
    assert not [event for event in alice.state(room) if event["type"] == "m.example"]


@every_room_version
def test_number_after_a_state_type_is_a_state_key(alice: Client, room: str) -> None:
    """API-5: repeating such a PUT is a new event."""
    first = alice.set_state(room, "m.example", {"n": 1}, "11")
    second = alice.set_state(room, "m.example", {"n": 2}, "11")
    assert first != second
    assert alice.state_content(room, "m.example", "11") == {"n": 2}


# Retransmits.


class Story:
    """A room in which everything that has two forms can be done: by alice, to bob."""

    def __init__(self, alice: Client, bob: Client) -> None:
        self.alice, self.bob = alice, bob
        self.room = alice.create_room(visibility="public")
        self.event_id = alice.send(self.room, "to be redacted")

    def prepare(self, action: str) -> tuple[Client, str, Json]:
        """Make the room ready for an action: who does it, its path and its body."""
        about_bob = {"user_id": self.bob.user_id}
        if action in ("leave", "kick"):
            self.bob.join(self.room)
        if action == "unban":
            self.alice.ban(self.room, self.bob)
        if action in ("join", "leave"):
            return self.bob, f"/rooms/{self.room}/{action}", {}
        if action == "join by path":
            return self.bob, f"/join/{self.room}", {}
        if action == "createRoom":
            return self.alice, "/createRoom", {"name": "once"}
        if action == "send":
            return self.alice, f"/rooms/{self.room}/send/m.room.message", TEXT
        if action == "redact":
            return self.alice, f"/rooms/{self.room}/redact/{quote(self.event_id)}", {"reason": "once"}
        return self.alice, f"/rooms/{self.room}/{action}", about_bob


ACTIONS = [
    *("createRoom", "join", "join by path", "invite", "leave", "kick", "ban", "unban"),
    *("send", "redact"),
]


@every_room_version
@pytest.mark.parametrize("action", ACTIONS)
def test_retransmitted_put_is_done_once(alice: Client, bob: Client, action: str) -> None:
    """API-4: the second answer is the first one, and nothing happens a second time."""
    story = Story(alice, bob)
    who, path, body = story.prepare(action)
    rooms_before = set(alice.synced_rooms())
    txn = who.new_txn()
    first = who.call("PUT", f"{path}/{txn}", body)
    history = ids(alice.history(story.room))
    second = who.call("PUT", f"{path}/{txn}", body)
    assert second == first
    assert ids(alice.history(story.room)) == history
    assert len(set(alice.synced_rooms()) - rooms_before) == (1 if action == "createRoom" else 0)


@any_process
@every_room_version
@pytest.mark.parametrize("action", ACTIONS)
def test_retransmits_while_the_first_is_in_flight_are_done_once(alice: Client, bob: Client, action: str) -> None:
    """API-4."""
    story = Story(alice, bob)
    who, path, body = story.prepare(action)
    rooms_before = set(alice.synced_rooms())
    events_before = len(alice.history(story.room))
    txn = who.new_txn()
    flying = [who.start("PUT", f"{path}/{txn}", body) for _ in range(6)]
    answers = [pending.json() for pending in flying]
    assert answers == answers[:1] * 6
    done_in_room = 0 if action == "createRoom" else 1
    assert len(alice.history(story.room)) - events_before == done_in_room
    assert len(set(alice.synced_rooms()) - rooms_before) == 1 - done_in_room


@every_room_version
def test_only_the_transaction_id_tells_a_retransmit(alice: Client, room: str) -> None:
    """API-4."""
    first = alice.send_event(room, "m.room.message", TEXT, "same")
    assert alice.send_event(room, "m.room.message", {**TEXT, "body": "other"}, "same") == first
    assert alice.send_event(room, "m.room.message", TEXT, "next") != first
    assert texts(alice.history(room)) == ["hello", "hello"]


def test_transaction_id_belongs_to_the_path_it_came_with(alice: Client, room: str) -> None:
    """API-4: clients of the day count them for each kind of request."""
    elsewhere = alice.create_room()
    answers = {
        alice.send_event(room, "m.room.message", TEXT, "1"),
        alice.send_event(room, "org.example.greeting", TEXT, "1"),
        alice.send_event(elsewhere, "m.room.message", TEXT, "1"),
    }
    assert len(answers) == 3


def test_other_tokens_do_not_share_transaction_ids(alice: Client, bob: Client, room: str) -> None:
    """API-4: neither another user's nor another login of the same user."""
    bob.join(room)
    other_login = Client(alice.server).login(alice.user_id)
    sent = {client.send_event(room, "m.room.message", TEXT, "1") for client in (alice, bob, other_login)}
    assert len(sent) == 3


def test_refused_request_can_be_tried_again_under_another_transaction_id(alice: Client, bob: Client) -> None:
    """API-4."""
    room = alice.create_room()
    with forbidden():
        bob.send_event(room, "m.room.message", TEXT, "1")
    alice.invite(room, bob)
    bob.join(room)
    assert bob.send_event(room, "m.room.message", TEXT, "2")


@pytest.mark.parametrize("how", [HomeServer.restart, lambda server: (server.kill9(), server.start())])
def test_retransmit_is_recognised_after_a_restart(
    fresh_server: FreshServer, how: Callable[[HomeServer], object]
) -> None:
    """API-4: in good order or by kill -9."""
    server = fresh_server()
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    room = alice.create_room(visibility="public")
    requests = [
        (alice, f"/rooms/{room}/send/m.room.message/1", TEXT),
        (alice, f"/rooms/{room}/invite/2", {"user_id": bob.user_id}),
        (bob, f"/join/{room}/1", {}),
        (bob, f"/rooms/{room}/leave/2", {}),
        (alice, "/createRoom/3", {"name": "once"}),
    ]
    first = [who.call("PUT", path, body) for who, path, body in requests]
    history = ids(alice.history(room))
    how(server)
    assert [who.call("PUT", path, body) for who, path, body in requests] == first
    assert ids(alice.history(room)) == history
    assert len(alice.synced_rooms()) == 2


# Names in paths.


@every_room_version
@pytest.mark.parametrize("key", ["a/b", "a b", "a%2Fb", "a+b", "%", "?&=#", "é/日本", ".", "..", "a//b", "x;y"])
def test_state_keys_are_decoded_once_and_one_by_one(alice: Client, room: str, key: str) -> None:
    """API-6."""
    alice.set_state(room, "org.example/odd type", {"key": key}, key)
    assert alice.state_content(room, "org.example/odd type", key) == {"key": key}
    assert alice.state_event(room, "org.example/odd type", key)["content"] == {"key": key}


@every_room_version
def test_empty_state_key_may_be_written_or_left_out(alice: Client, room: str) -> None:
    """API-6: both name the same piece of state."""
    alice.set_state(room, "m.room.topic", {"topic": "one"})
    alice.set_state(room, "m.room.topic", {"topic": "two"}, "")
    assert alice.state_content(room, "m.room.topic") == {"topic": "two"}
    assert alice.state_content(room, "m.room.topic", "") == {"topic": "two"}


@every_room_version
def test_slash_in_an_alias_is_data(alice: Client, bob: Client, room: str, unique: Unique) -> None:
    """API-6."""
    alias = f"#{unique('and/or')}:{alice.server.name}"
    alice.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    assert alice.call("GET", f"/directory/room/{quote(alias)}")["room_id"] == room
    assert bob.join(alias) == room


@every_room_version
def test_slash_in_a_user_id_is_data(alice: Client, people: People, room: str) -> None:
    """API-6."""
    dan = people("da/n")
    alice.set_state(room, "m.room.member", {"membership": "invite"}, dan.user_id)
    dan.join(room)
    assert alice.state_content(room, "m.room.member", dan.user_id)["membership"] == "join"


def test_slash_in_a_transaction_id_is_data(alice: Client, room: str) -> None:
    """API-6."""
    first = alice.send_event(room, "m.room.message", TEXT, "1/2")
    assert alice.send_event(room, "m.room.message", TEXT, "1/2") == first
    assert alice.send_event(room, "m.room.message", TEXT, "1%2F2") != first


@every_room_version
def test_room_ids_come_raw_and_percent_encoded(alice: Client, room: str) -> None:
    """EVS-10."""
    raw, encoded = f"/rooms/{room}/state/m.room.topic", f"/rooms/{quote(room)}/state/m.room.topic"
    event_id = alice.call("PUT", raw, {"topic": "raw"})["event_id"]
    assert alice.call("GET", encoded) == alice.call("GET", raw) == {"topic": "raw"}
    for spelling in (event_id, quote(event_id)):
        assert alice.call("GET", f"/events/{spelling}")["event_id"] == event_id


@pytest.mark.parametrize("segment", ["%ff", "%c3", "%ed%a0%80", "%C0%AF"])
def test_path_that_is_not_utf_8_is_refused(alice: Client, room: str, segment: str) -> None:
    """API-6, API-7."""
    with bad_json():
        alice.call("PUT", f"/rooms/{room}/state/m.example/{segment}", {})


@every_room_version
def test_users_are_the_same_in_any_case(alice: Client, bob: Client, room: str) -> None:
    """API-7."""
    shouted = bob.user_id.upper()
    assert Client(bob.server).login(shouted).user_id == bob.user_id
    alice.invite(room, shouted)
    with forbidden():
        bob.set_state(room, "m.room.member", {"membership": "join"}, alice.user_id.upper())
    bob.set_state(room, "m.room.member", {"membership": "join"}, shouted)
    assert alice.members(room) == {alice.user_id: "join", bob.user_id: "join"}
    assert alice.state_content(room, "m.room.member", shouted)["membership"] == "join"
    alice.kick(room, shouted)
    assert alice.members(room)[bob.user_id] == "leave"


def test_registered_name_is_kept_in_lower_case(server: HomeServer, unique: Unique) -> None:
    """API-7."""
    name = unique("LoudName")
    assert Client(server).register(name).user_id == f"@{name.lower()}:{server.name}"


@every_room_version
def test_power_levels_count_whatever_the_case_of_the_user_id(
    alice: Client, bob: Client, carol: Client, room: str
) -> None:
    """API-7: nobody's power may depend on how their name was written."""
    bob.join(room)
    carol.join(room)
    alice.give_power(room, {bob.user_id.upper(): 60})
    bob.kick(room, carol)


def test_aliases_are_the_same_in_any_case(alice: Client, bob: Client, unique: Unique) -> None:
    """API-7."""
    name = unique("ThePub")
    room = alice.create_room(visibility="public", room_alias_name=name)
    shouted = f"#{name.upper()}:{alice.server.name.upper()}"
    assert bob.join(shouted) == room
    with refused(400, "M_ROOM_IN_USE"):
        bob.create_room(room_alias_name=name.lower())


@every_room_version
def test_room_ids_differ_by_case(alice: Client, room: str) -> None:
    """API-7."""
    with forbidden():
        alice.state(room.swapcase())
    with not_found():
        alice.join(room.swapcase())


MALFORMED = ["x", "@", "!", "#", "@:", "!:x", "noone:here", "@a b:c", "@a", "!" + "x" * 300 + ":y", "\x00"]


@every_room_version
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_ids_are_refused_with_a_reason(alice: Client, room: str, name: str) -> None:
    """API-7: never by a failure of the server."""
    requests: list[tuple[str, str, Json]] = [
        ("POST", f"/join/{quote(name)}", {}),
        ("GET", f"/rooms/{quote(name)}/state", {}),
        ("GET", f"/directory/room/{quote(name)}", {}),
        ("GET", f"/events/{quote(name)}", {}),
        ("PUT", state_path(room, "m.room.member", name), {"membership": "invite"}),
        ("POST", f"/rooms/{room}/invite", {"user_id": name}),
        ("POST", f"/rooms/{room}/redact/{quote(name)}", {}),
        ("POST", "/createRoom", {"invite": [name]}),
    ]
    for method, path, body in requests:
        answer = alice.request(method, path, body)
        assert 400 <= answer.status < 405, f"{method} {path}: {answer.status} {answer.body!r}"
        assert answer.json["errcode"] in ("M_BAD_JSON", "M_FORBIDDEN", "M_NOT_FOUND", "M_UNRECOGNIZED")
        assert answer.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/login", {"type": "m.login.password", "user": "nobody-at-all", "password": PASSWORD}),
        ("GET", "/rooms/x/state", None),
        ("GET", "/nowhere", None),
        ("POST", "/login", b"{"),
    ],
)
def test_error_is_a_code_and_a_sentence(server: HomeServer, method: str, path: str, body: object) -> None:
    """API-3: and it tells nothing of the server's inside."""
    answer = Client(server).request(method, path, body)
    assert 400 <= answer.status < 500
    assert set(answer.json) == {"errcode", "error"}
    assert answer.json["errcode"].startswith("M_")
    assert " " in answer.json["error"]
    assert "Traceback" not in answer.json["error"]


@every_room_version
def test_retransmitted_join_by_alias_is_answered_though_the_alias_is_gone(
    alice: Client, bob: Client, unique: Unique
) -> None:
    """API-4."""
    alias = f"#{unique('soon-gone')}:{alice.server.name}"
    room = alice.create_room(visibility="public")
    alice.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    path = f"/join/{quote(alias)}/{bob.new_txn()}"
    first = bob.call("PUT", path, {})
    alice.call("DELETE", f"/directory/room/{quote(alias)}")
    assert bob.call("PUT", path, {}) == first == {"room_id": room}


def test_logout_everywhere_has_no_put(alice: Client) -> None:
    """API-5: it would end one token only, and nobody could tell."""
    assert alice.request("PUT", "/logout/all", {}).status == 405
    assert alice.call("GET", "/initialSync")


@any_process
def test_requests_behind_a_logout_are_refused_and_do_nothing(alice: Client, bob: Client, room: str) -> None:
    """LOGIN-10: also if they were on their way already."""
    bob.join(room)
    path = f"/rooms/{quote(room)}/send/m.room.message"
    for way in range(20):
        session = Client(bob.server).login(bob.user_id)
        ending = session.start("POST", "/logout", {})
        late = [
            session.start("PUT", f"{path}/{way}", {"msgtype": "m.text", "body": "late"}),
            session.start("POST", path, {"msgtype": "m.text", "body": "late"}),
        ]
        assert ending.json() == {}
        assert {pending.answer().status for pending in late} <= {200, 401}
