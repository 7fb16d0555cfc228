"""Getting an account, getting into it and out of it."""

from __future__ import annotations

from itertools import count

import pytest

from tests.scenarios.conftest import FreshServer, Unique, any_process
from tests.support.client import (
    PASSWORD,
    ApiError,
    Client,
    Json,
    bad_json,
    forbidden,
    quote,
    refused,
)
from tests.support.processes import wait_until
from tests.support.server import HomeServer

PASSWORD_STAGE = "m.login.password"
TOKEN_STAGE = "m.login.registration_token"
TOKEN = "let-me-in"


def _password_stage(user: str, password: str = PASSWORD, **more: object) -> Json:
    return {"type": PASSWORD_STAGE, "user": user, "password": password, **more}


def _is_live(client: Client, token: str | None = None) -> bool:
    answer = client.request("GET", "/initialSync", token=token)
    if answer.status != 200:
        assert (answer.status, answer.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    return answer.status == 200


# By password.


@pytest.mark.parametrize("path", ["/login", "/register"])
def test_password_is_the_only_way_without_configuration(server: HomeServer, path: str) -> None:
    """LOGIN-1, EVS-10."""
    assert Client(server).call("GET", path) == {"flows": [{"type": PASSWORD_STAGE}]}


def test_registering_makes_an_account_and_logs_in(server: HomeServer, unique: Unique) -> None:
    """LOGIN-2, LOGIN-3."""
    name = unique("erin")
    answer = Client(server).call("POST", "/register", _password_stage(name))
    assert answer["user_id"] == f"@{name}:{server.name}"
    assert answer["home_server"] == server.name
    assert _is_live(Client(server), answer["access_token"])


def test_full_user_id_can_be_registered(server: HomeServer, unique: Unique) -> None:
    """LOGIN-3."""
    user_id = f"@{unique('erin')}:{server.name}"
    assert Client(server).register(user_id).user_id == user_id


def test_logging_in_by_localpart_or_full_user_id_in_any_case(alice: Client) -> None:
    """LOGIN-2, LOGIN-3, API-7."""
    localpart = alice.user_id[1:].split(":")[0]
    tokens = {alice.token}
    for name in (localpart, localpart.upper(), alice.user_id, alice.user_id.title()):
        answer = Client(alice.server).call("POST", "/login", _password_stage(name))
        assert answer["user_id"] == alice.user_id
        assert answer["home_server"] == alice.server.name
        tokens.add(answer["access_token"])
    assert len(tokens) == 5, "every login has a token of its own"
    assert all(_is_live(alice, token) for token in tokens), "they live beside each other"


def test_taken_name_cannot_be_registered(alice: Client) -> None:
    """LOGIN-3: nor does an attempt change the account."""
    localpart = alice.user_id[1:].split(":")[0]
    for name in (localpart, localpart.upper(), alice.user_id):
        with refused(400, "M_USER_IN_USE"):
            Client(alice.server).register(name, "another password")
    assert Client(alice.server).login(localpart).user_id == alice.user_id


@pytest.mark.parametrize(
    "name", ["", " ", "two words", "ünï", "a:b", "@a", "@a:elsewhere.org", "x" * 300, "a\nb", "#a", "🐟"]
)
def test_name_that_is_no_name_cannot_be_registered(server: HomeServer, name: str) -> None:
    """LOGIN-3, API-7."""
    with bad_json():
        Client(server).register(name)


@pytest.mark.parametrize("name", ["a", "a.b_c=d-e/f+g", "123"])
def test_names_of_all_allowed_characters_can_be_registered(server: HomeServer, unique: Unique, name: str) -> None:
    """LOGIN-3."""
    client = Client(server).register(unique(name))
    assert Client(server).login(client.user_id).user_id == client.user_id


def test_passwords_are_compared_exactly(server: HomeServer, unique: Unique) -> None:
    """LOGIN-3: whatever they consist of."""
    for password in ("ünïcödé 🔑 pass", "with\x00nul inside", " spaces around ", "x" * 200):
        user_id = Client(server).register(unique("erin"), password).user_id
        assert Client(server).login(user_id, password).user_id == user_id
        for wrong in (password.upper() + "!", password.strip() + "?", password.split("\x00")[0] + "x", password[:-1]):
            with forbidden():
                Client(server).login(user_id, wrong)


def test_wrong_password_and_unknown_user_are_answered_alike(alice: Client) -> None:
    """LOGIN-3."""
    nobody = Client(alice.server)
    wrong = nobody.request("POST", "/login", _password_stage(alice.user_id, "wrong horse"))
    unknown = nobody.request("POST", "/login", _password_stage(f"@noone:{alice.server.name}"))
    elsewhere = nobody.request("POST", "/login", _password_stage("@alice:elsewhere.org"))
    assert (wrong.status, wrong.json["errcode"]) == (403, "M_FORBIDDEN")
    assert (unknown.status, unknown.body) == (wrong.status, wrong.body)
    assert (elsewhere.status, elsewhere.body) == (wrong.status, wrong.body)


def test_wrong_password_and_unknown_user_cost_the_same_work(fresh_server: FreshServer) -> None:
    """LOGIN-3: so that the time of an answer does not tell who has an account."""
    server = fresh_server({"password_hashing.memory_kib": 19456, "password_hashing.iterations": 4})
    nobody = Client(server)
    Client(server).register("alice")

    def work(user: str) -> float:
        before = server.cpu_seconds()
        for _ in range(8):
            with forbidden():
                nobody.login(user, "wrong horse")
        return server.cpu_seconds() - before

    work("alice")
    known, unknown = work("alice"), work("nobody")
    assert 0.5 < unknown / known < 2


def test_unknown_login_type_is_refused(server: HomeServer, alice: Client) -> None:
    """LOGIN-1."""
    for path in ("/login", "/register"):
        for stage in ("m.login.magic", "", TOKEN_STAGE):
            body = _password_stage(alice.user_id) | {"type": stage}
            assert Client(server).request("POST", path, body).status in (400, 403)


# Out again.


def test_logout_ends_one_token(alice: Client) -> None:
    """LOGIN-10."""
    other = Client(alice.server).login(alice.user_id)
    alice.call("POST", "/logout", {})
    assert not _is_live(alice)
    assert _is_live(other)
    with refused(401, "M_UNKNOWN_TOKEN"):
        alice.create_room()


@any_process
def test_logout_from_everywhere_ends_all_tokens_of_the_user(alice: Client, bob: Client) -> None:
    """LOGIN-10."""
    other = Client(alice.server).login(alice.user_id)
    alice.call("POST", "/logout/all", {})
    assert not _is_live(alice)
    assert not _is_live(other)
    assert _is_live(bob)
    assert _is_live(Client(alice.server).login(alice.user_id)), "one can log in again"


@any_process
def test_logout_ends_open_long_polls(alice: Client) -> None:
    """LOGIN-10: what happens later must not reach who has left."""
    other = Client(alice.server).login(alice.user_id)
    polls = {login: login.poll(login.present()) for login in (alice, other)}
    alice.call("POST", "/logout", {})
    ended = polls[alice].answer()
    assert (ended.status, ended.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert polls[other].is_waiting()
    other.call("POST", "/logout/all", {})
    ended = polls[other].answer()
    assert (ended.status, ended.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")


@any_process
def test_token_that_is_used_while_it_ends_has_ended(alice: Client) -> None:
    """LOGIN-10: a request under way must not keep it alive."""
    for _ in range(60):
        login = Client(alice.server).login(alice.user_id)
        ending = login.start("POST", "/logout", {})
        under_way = [login.start("GET", "/initialSync") for _ in range(6)]
        ending.json()
        assert {request.answer().status for request in under_way} <= {200, 401}
        assert not _is_live(login)


def test_ended_token_stays_ended_after_a_restart(fresh_server: FreshServer) -> None:
    """LOGIN-10: and the others stay."""
    server = fresh_server()
    alice = Client(server).register("alice")
    other = Client(server).login("alice")
    alice.call("POST", "/logout", {})
    server.restart()
    assert not _is_live(alice)
    assert _is_live(other)


# Closed registration, and the operator's commands.


@pytest.fixture
def closed_server(fresh_server: FreshServer) -> HomeServer:
    return fresh_server({"registration.mode": "closed"})


def test_closed_registration_lets_nobody_register(closed_server: HomeServer) -> None:
    """LOGIN-11."""
    nobody = Client(closed_server)
    assert nobody.call("GET", "/register") == {"flows": []}
    for body in (_password_stage("erin"), {"type": TOKEN_STAGE, "token": ""}, _password_stage("erin", session="x")):
        with forbidden():
            nobody.call("POST", "/register", body)


def test_operator_makes_users_and_resets_passwords_while_the_server_runs(closed_server: HomeServer) -> None:
    """LOGIN-11."""
    made = closed_server.command("register-user", "Erin", "--password", PASSWORD)
    assert made.returncode == 0, made.stderr
    assert f"@erin:{closed_server.name}" in made.stdout
    erin = Client(closed_server).login("erin")
    poll = erin.poll(erin.present(), timeout=120_000)

    reset = closed_server.command("reset-password", "erin", "--password", "new password")
    assert reset.returncode == 0, reset.stderr
    with forbidden():
        Client(closed_server).login("erin", PASSWORD)
    # Whoever knew the old password may have been logged in.
    wait_until("the old logins to end", lambda: not _is_live(erin), seconds=10)
    assert poll.answer().status == 401
    assert Client(closed_server).login("erin", "new password").user_id == erin.user_id


def test_password_can_be_given_on_standard_input(closed_server: HomeServer) -> None:
    """LOGIN-11: where other users of the machine cannot see it."""
    assert closed_server.command("register-user", "erin", typed="typed password\n").returncode == 0
    Client(closed_server).login("erin", "typed password")
    assert closed_server.command("reset-password", "erin", typed="other password\n").returncode == 0
    Client(closed_server).login("erin", "other password")


def test_operator_is_told_what_is_wrong(closed_server: HomeServer) -> None:
    """LOGIN-11: in a sentence, and with an exit code."""
    assert closed_server.command("register-user", "erin", "--password", PASSWORD).returncode == 0
    for command, name in (
        ("register-user", "erin"),
        ("register-user", "ERIN"),
        ("register-user", "two words"),
        ("register-user", "@erin:elsewhere.org"),
        ("reset-password", "nobody"),
    ):
        told = closed_server.command(command, name, "--password", "another password")
        assert told.returncode == 1
        assert told.stderr.startswith("Error: ")
        assert "Traceback" not in told.stderr
    Client(closed_server).login("erin", PASSWORD)  # and nothing was changed


def test_operator_closes_an_account_for_good(fresh_server: FreshServer) -> None:
    """LOGIN-11, LOGIN-3: which looks as if there had never been one, but its name is not given again."""
    server = fresh_server()
    erin = Client(server).register("erin")
    poll = erin.poll(erin.present(), timeout=120_000)
    assert server.command("deactivate-user", "erin").returncode == 0
    wait_until("the login to end", lambda: not _is_live(erin), seconds=10)
    assert poll.answer().status == 401
    nobody = Client(server)
    closed = nobody.request("POST", "/login", _password_stage("erin"))
    unknown = nobody.request("POST", "/login", _password_stage("nobody"))
    assert (closed.status, closed.body) == (unknown.status, unknown.body)
    assert closed.status == 403
    with refused(400, "M_USER_IN_USE"):
        nobody.register("erin")
    for command, more in (
        ("deactivate-user", ()),
        ("set-admin", ()),
        ("reset-password", ("--password", "another password")),
    ):
        told = server.command(command, "erin", *more)
        assert (told.returncode, told.stderr[:7]) == (1, "Error: ")
    with forbidden():
        nobody.login("erin", "another password")


def test_operator_makes_an_administrator_of_a_user(fresh_server: FreshServer) -> None:
    """LOGIN-11: who may then do what only administrators may, until it is taken away."""
    server = fresh_server()
    erin, frank = Client(server).register("erin"), Client(server).register("frank")
    numbers = count(1)

    def deletes_what_is_not_hers() -> bool:
        name = f"room-{next(numbers)}"
        frank.create_room(room_alias_name=name)
        return erin.request("DELETE", f"/directory/room/{quote(f'#{name}:{server.name}')}").status == 200

    assert not deletes_what_is_not_hers()
    assert server.command("set-admin", "erin").returncode == 0
    wait_until("her to be one", deletes_what_is_not_hers, seconds=10)
    assert server.command("set-admin", "erin", "--off").returncode == 0
    wait_until("her to be none", lambda: not deletes_what_is_not_hers(), seconds=10)
    assert server.command("set-admin", "nobody").returncode == 1


# Registration in stages.


@pytest.fixture
def token_server(fresh_server: FreshServer) -> HomeServer:
    """Registration takes a token first, then a name and a password."""
    return fresh_server({"registration.mode": "token", "registration.tokens": [TOKEN, "spare"]})


def _begin(client: Client, token: str = TOKEN) -> str:
    """Pass the token's stage, and return the session."""
    answer = client.call("POST", "/register", {"type": TOKEN_STAGE, "token": token})
    assert answer["next"] == PASSWORD_STAGE
    assert "access_token" not in answer
    return str(answer["session"])


def test_stages_are_announced_and_gone_through_in_order(token_server: HomeServer) -> None:
    """LOGIN-1, LOGIN-2, LOGIN-8, LOGIN-11."""
    nobody = Client(token_server)
    flows = nobody.call("GET", "/register")["flows"]
    assert flows == [{"type": TOKEN_STAGE, "stages": [TOKEN_STAGE, PASSWORD_STAGE]}]
    session = _begin(nobody)
    made = nobody.call("POST", "/register", _password_stage("erin", session=session))
    assert made["user_id"] == f"@erin:{token_server.name}"
    assert _is_live(nobody, made["access_token"])
    assert Client(token_server).login("erin").user_id == made["user_id"], "logging in has its own stages"


def test_wrong_registration_token_is_refused(token_server: HomeServer) -> None:
    """LOGIN-11."""
    nobody = Client(token_server)
    for token in ("wrong", "", TOKEN.upper(), f"{TOKEN},spare", "*"):
        with forbidden():
            nobody.call("POST", "/register", {"type": TOKEN_STAGE, "token": token})
    for body in ({"type": TOKEN_STAGE}, {"type": TOKEN_STAGE, "token": 5}, {"type": TOKEN_STAGE, "token": [TOKEN]}):
        with bad_json():
            nobody.call("POST", "/register", body)


def test_no_stage_can_be_skipped(token_server: HomeServer) -> None:
    """LOGIN-2."""
    nobody = Client(token_server)
    failed = nobody.request("POST", "/register", {"type": TOKEN_STAGE, "token": "wrong"})
    sessions = [None, "", "made-up", failed.json.get("session", "x")]
    for session in sessions:
        body = _password_stage("erin") | ({} if session is None else {"session": session})
        assert 400 <= nobody.request("POST", "/register", body).status < 500
    with forbidden():
        nobody.login("erin")


def test_finished_session_cannot_be_replayed(token_server: HomeServer) -> None:
    """LOGIN-2."""
    nobody = Client(token_server)
    session = _begin(nobody)
    nobody.call("POST", "/register", _password_stage("erin", session=session))
    assert 400 <= nobody.request("POST", "/register", _password_stage("mallory", session=session)).status < 500
    with forbidden():
        nobody.login("mallory")


@any_process
def test_session_that_is_finished_many_times_at_once_makes_one_account(token_server: HomeServer) -> None:
    """LOGIN-2."""
    nobody = Client(token_server)
    session = _begin(nobody)
    attempts = [
        nobody.start("POST", "/register", _password_stage(f"erin-{number}", session=session)) for number in range(6)
    ]
    assert sorted(attempt.answer().status == 200 for attempt in attempts) == [False] * 5 + [True]


def test_failed_stage_may_be_tried_again(token_server: HomeServer) -> None:
    """LOGIN-2: a taken name does not cost the session."""
    nobody = Client(token_server)
    nobody.call("POST", "/register", _password_stage("erin", session=_begin(nobody)))
    session = _begin(nobody, "spare")
    with refused(400, "M_USER_IN_USE"):
        nobody.call("POST", "/register", _password_stage("erin", session=session))
    assert nobody.call("POST", "/register", _password_stage("frank", session=session))["access_token"]


def test_registration_session_is_no_login(token_server: HomeServer) -> None:
    """LOGIN-2: nor the other way round; each is for what it was begun for."""
    nobody = Client(token_server)
    nobody.call("POST", "/register", _password_stage("erin", session=_begin(nobody)))
    session = _begin(nobody)
    answer = nobody.request("POST", "/login", {"type": TOKEN_STAGE, "token": TOKEN, "session": session})
    assert 400 <= answer.status < 500
    answer = nobody.request("POST", "/login", _password_stage("erin", "wrong horse", session=session))
    assert 400 <= answer.status < 500


def test_sessions_survive_a_restart(token_server: HomeServer) -> None:
    """LOGIN-2: in good order or by kill -9."""
    nobody = Client(token_server)
    first, second = _begin(nobody), _begin(nobody)
    token_server.restart()
    assert nobody.call("POST", "/register", _password_stage("erin", session=first))["access_token"]
    token_server.kill9()
    token_server.start()
    assert nobody.call("POST", "/register", _password_stage("frank", session=second))["access_token"]
    assert 400 <= nobody.request("POST", "/register", _password_stage("mallory", session=first)).status < 500


@pytest.fixture
def password_first_server(fresh_server: FreshServer) -> HomeServer:
    """Registration takes a name and a password first, then a token."""
    return fresh_server({"registration.flows": [[PASSWORD_STAGE, TOKEN_STAGE]], "registration.tokens": [TOKEN]})


def test_account_exists_only_after_the_last_stage(password_first_server: HomeServer) -> None:
    """LOGIN-2, LOGIN-8."""
    nobody = Client(password_first_server)
    begun = nobody.call("POST", "/register", _password_stage("erin"))
    assert begun["next"] == TOKEN_STAGE
    assert "access_token" not in begun
    with forbidden():
        nobody.login("erin")
    made = nobody.call("POST", "/register", {"type": TOKEN_STAGE, "token": TOKEN, "session": begun["session"]})
    assert made["user_id"] == f"@erin:{password_first_server.name}"
    assert nobody.login("erin").user_id == made["user_id"]


def test_session_cannot_be_swapped_to_another_user(password_first_server: HomeServer) -> None:
    """LOGIN-2: it makes the account for which it was begun, or none."""
    nobody = Client(password_first_server)
    session = nobody.call("POST", "/register", _password_stage("erin"))["session"]
    body = {"type": TOKEN_STAGE, "token": TOKEN, "session": session, "user": "mallory", "password": "wrong horse"}
    answer = nobody.request("POST", "/register", body)
    if answer.status == 200:
        assert answer.json["user_id"] == f"@erin:{password_first_server.name}"
        nobody.login("erin", PASSWORD)
    with forbidden():
        nobody.login("mallory", "wrong horse")


def test_of_two_sessions_for_one_name_one_wins(password_first_server: HomeServer) -> None:
    """LOGIN-2, LOGIN-3."""
    nobody = Client(password_first_server)
    first = nobody.call("POST", "/register", _password_stage("erin", "first password"))["session"]
    second = nobody.call("POST", "/register", _password_stage("erin", "second password"))["session"]
    last = {"type": TOKEN_STAGE, "token": TOKEN}
    assert nobody.call("POST", "/register", {**last, "session": second})["access_token"]
    with refused(400, "M_USER_IN_USE"):
        nobody.call("POST", "/register", {**last, "session": first})
    nobody.login("erin", "second password")
    with pytest.raises(ApiError):
        nobody.login("erin", "first password")


# Rate limits.


def test_guessing_passwords_is_slowed_down(fresh_server: FreshServer) -> None:
    """RATE-1, API-3: with a time after which one may try again."""
    server = fresh_server(
        {
            "rate_limits.enabled": True,
            "rate_limits.classes.login": {"per_second": 0.01, "burst": 3},
            "rate_limits.classes.registration": {"per_second": 0.01, "burst": 2},
        }
    )
    nobody = Client(server)
    nobody.register("alice")
    nobody.register("bob")
    for _ in range(3):
        with forbidden():
            nobody.login("alice", "wrong horse")
    for path, name in (("/login", "alice"), ("/register", "carol")):
        answer = nobody.request("POST", path, _password_stage(name))
        assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert 0 < answer.json["retry_after_ms"] <= 100_000


def test_sending_is_limited_for_each_user_alone(fresh_server: FreshServer) -> None:
    """RATE-1, SEC-5."""
    server = fresh_server({"rate_limits.enabled": True, "rate_limits.classes.send": {"per_second": 0.01, "burst": 5}})
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    room = alice.create_room(visibility="public")
    sent = [alice.request("POST", f"/rooms/{room}/send/m.room.message", {"msgtype": "x"}) for _ in range(8)]
    assert [answer.status for answer in sent] == [200] * 5 + [429] * 3
    bob.join(room)
    assert bob.send(room, "not my flood")


def test_rooms_joins_and_invites_have_limits_of_their_own(fresh_server: FreshServer) -> None:
    """RATE-1, SEC-5, SEC-9: what is said in a room is counted for all who are in it together; who may not speak there
    uses up nothing of it. Whoever has made, joined or invited too much may still speak."""
    rare = {"per_second": 0.001, "burst": 2}
    classes = {f"rate_limits.classes.{name}": rare for name in ("joins", "invites", "creations")}
    classes["rate_limits.classes.room"] = {"per_second": 0.01, "burst": 6}
    server = fresh_server({"rate_limits.enabled": True, **classes})
    alice, bob, eve = (Client(server).register(name) for name in ("alice", "bob", "eve"))
    rooms = [alice.create_room(visibility="public") for _ in range(2)]
    assert alice.request("POST", "/createRoom", {}).status == 429
    assert bob.request("POST", "/createRoom", {"invite": [alice.user_id, alice.user_id]}).status == 200
    assert bob.request("POST", "/createRoom", {"invite": [alice.user_id]}).status == 429
    for room, status in ((rooms[0], 200), (rooms[1], 200), (rooms[0], 429)):
        assert bob.request("POST", f"/join/{room}", {}).status == status
    for user, status in (("@carol:x", 200), ("@dave:x", 200), ("@eve:x", 429)):
        answer = alice.request("POST", f"/rooms/{rooms[0]}/invite", {"user_id": user.replace("x", server.name)})
        assert answer.status == status, answer.json
    path = f"/rooms/{rooms[0]}/send/m.room.message"
    assert {eve.request("POST", path, {"msgtype": "x"}).status for _ in range(10)} == {403}
    sent = [client.request("POST", path, {"msgtype": "x"}) for _ in range(4) for client in (alice, bob)]
    assert [answer.status for answer in sent] == [200] * 6 + [429] * 2
    assert 0 < sent[-1].json["retry_after_ms"] <= 100_000
    assert bob.send(rooms[1], "not that room")
