"""Policy servers are asked before things happen (POL-1), on one server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from signedjson.key import get_verify_key, read_signing_keys

from synapse_like.protocol.request_signing import encode_content, parse_authorization, verify
from tests.conftest import NewDatabase
from tests.scenarios.conftest import FreshServer, Unique, known, must_not_have_failed
from tests.support.client import ApiError, Client, Json, ids, quote, texts
from tests.support.policy_server import PolicyServer
from tests.support.processes import free_port, wait_until
from tests.support.server import QUICK, ROOT, HomeServer

HOOKS = ["registration", "invites", "room_creation", "local_sends"]


@pytest.fixture(scope="session")
def shared_policy() -> Iterator[PolicyServer]:
    server = PolicyServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def asking_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    shared_policy: PolicyServer,
) -> Iterator[HomeServer]:
    """A home server that asks a policy server, which may take a second."""
    servers = [{"url": shared_policy.url, "hooks": HOOKS, "timeout": 2.0, "on_failure": "closed"}]
    with new_database() as url:
        settings = {**QUICK, "policy.servers": servers}
        with known(request, HomeServer(tmp_path_factory.mktemp("home") / "data", url, settings)) as server:
            yield server.start()


@pytest.fixture
def server(asking_server: HomeServer) -> Iterator[HomeServer]:
    asking_server.forget_log()
    yield asking_server
    must_not_have_failed(asking_server)


@pytest.fixture
def policy(shared_policy: PolicyServer) -> PolicyServer:
    """The policy server, which allows everything when a test begins."""
    shared_policy.reset()
    return shared_policy


@pytest.fixture
def alice(server: HomeServer, policy: PolicyServer, unique: Unique) -> Client:
    return Client(server).register(unique("alice"))


@pytest.fixture
def bob(server: HomeServer, policy: PolicyServer, unique: Unique) -> Client:
    return Client(server).register(unique("bob"))


class _Refused:
    """Expects that the policy's reason is what a client is told."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        assert isinstance(error, ApiError), f"it was allowed, or failed otherwise: {error!r}"
        assert (error.status, error.errcode, error.sentence) == (403, "M_FORBIDDEN", self._reason)
        return True


def refused_with(reason: str) -> _Refused:
    return _Refused(reason)


def test_registration_is_asked_about(server: HomeServer, policy: PolicyServer, unique: Unique) -> None:
    """POL-1: a refusal is M_FORBIDDEN with the policy's reason, and makes no account."""
    policy.refuse("casino", "No gambling here.")
    name = unique("casino")
    with refused_with("No gambling here."):
        Client(server).register(name)
    [question] = policy.questions("registration")
    assert question["user_id"] == f"@{name}:{server.name}"
    assert question["server_name"] == server.name
    policy.reset()
    assert Client(server).register(name).user_id == f"@{name}:{server.name}"


def test_rooms_and_invites_are_asked_about(
    server: HomeServer, policy: PolicyServer, alice: Client, bob: Client
) -> None:
    """POL-1: whatever way an invite is made, and a room is made whole or not at all."""
    policy.refuse("casino", "No gambling here.")
    with refused_with("No gambling here."):
        alice.create_room(name="The casino")
    room = alice.create_room(name="The pub", topic="beer")
    question = policy.questions("room_creation")[-1]
    assert (question["user_id"], question["room"]["name"], question["room"]["topic"]) == (
        alice.user_id,
        "The pub",
        "beer",
    )
    policy.refuse(bob.user_id, "Leave Bob alone.")
    with refused_with("Leave Bob alone."):
        alice.invite(room, bob)
    with refused_with("Leave Bob alone."):
        alice.set_state(room, "m.room.member", {"membership": "invite"}, bob.user_id)
    with refused_with("Leave Bob alone."):
        alice.create_room(invite=[bob.user_id])
    assert bob.initial_sync(limit=1)["rooms"] == []
    assert {question["target"] for question in policy.questions("invites")} == {bob.user_id}
    policy.reset()
    alice.invite(room, bob)
    assert bob.join(room) == room


def test_sends_are_asked_about_and_signed(server: HomeServer, policy: PolicyServer, alice: Client) -> None:
    """POL-1: messages and state; the request is signed by the home server's key."""
    room = alice.create_room(visibility="public")
    policy.refuse("casino", "No gambling here.")
    with refused_with("No gambling here."):
        alice.send(room, "come to my casino")
    with refused_with("No gambling here."):
        alice.set_state(room, "m.room.topic", {"topic": "casino"})
    sent = alice.send(room, "hello")
    assert texts(alice.history(room)) == ["hello"]
    question = policy.asked[-1]
    assert question.body == {
        "hook": "local_sends",
        "server_name": server.name,
        "user_id": alice.user_id,
        "room_id": room,
        "event": {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "hello"}},
    }
    with (server.data_dir / "signing.key").open() as file:
        key = get_verify_key(read_signing_keys(file)[0])
    verify(
        parse_authorization(question.authorization),
        method="POST",
        uri="/check?as=test",
        destination=f"127.0.0.1:{policy.port}",
        content=encode_content(question.body),
        key=key,
    )
    asked = len(policy.asked)
    alice.redact(room, sent)
    alice.leave(room)
    assert len(policy.asked) == asked, "what takes away is nobody's concern"


def test_request_that_was_done_is_not_asked_about_again(policy: PolicyServer, alice: Client) -> None:
    """POL-1, API-4: the answer to a repetition is the first one."""
    room = alice.create_room()
    content = {"msgtype": "m.text", "body": "hello"}
    sent = alice.send_event(room, "m.room.message", content, txn="once")
    policy.refuse("hello", "Not any more.")
    assert alice.send_event(room, "m.room.message", content, txn="once") == sent
    with refused_with("Not any more."):
        alice.send_event(room, "m.room.message", content, txn="twice")


def test_verdicts_are_remembered_as_they_say(policy: PolicyServer, alice: Client, bob: Client) -> None:
    """POL-1: for the very same, for a user, in a room; and no longer than they say."""
    room = alice.create_room(visibility="public")
    other = alice.create_room()
    bob.join(room)

    def asked_by(*sends: tuple[Client, str, str]) -> int:
        before = len(policy.questions("local_sends"))
        for client, where, text in sends:
            with refused_with("No."):
                client.send(where, text)
        return len(policy.questions("local_sends")) - before

    policy.refuse("user_id", "No.")
    assert asked_by((alice, room, "a"), (alice, room, "a")) == 2, "without a word about it, nothing is remembered"
    policy.verdict = lambda question: {"allow": False, "reason": "No.", "cache": {"seconds": 60}}
    assert asked_by((alice, room, "b"), (alice, room, "b"), (alice, room, "c")) == 2
    policy.verdict = lambda question: {"allow": False, "reason": "No.", "cache": {"seconds": 60, "for": "user_in_room"}}
    assert asked_by((alice, room, "d"), (alice, room, "e"), (alice, other, "e"), (bob, room, "e")) == 3
    policy.verdict = lambda question: {"allow": False, "reason": "No.", "cache": {"seconds": 1, "for": "room"}}
    assert asked_by((bob, other, "x"), (bob, other, "y")) == 1
    time.sleep(1.3)
    assert asked_by((bob, other, "x")) == 1


def test_silence_refuses_where_it_is_to_fail_closed(policy: PolicyServer, alice: Client) -> None:
    """POL-1: a time-out, a server that is gone, and nonsense."""
    room = alice.create_room()
    sentence = "The policy of this server cannot be asked at the moment."
    policy.refuse("slow", "never said", seconds=4)
    began = time.monotonic()
    with refused_with(sentence):
        alice.send(room, "slow")
    assert 1.5 < time.monotonic() - began < 3.5
    for nonsense in (b"", b"[]", b"{}", b'{"allow": "yes"}', b'{"allow": 1}', b"\xff", b"[" * 10_000, b"x" * 400_000):
        policy.say(nonsense)
        with refused_with(sentence):
            alice.send(room, "hello")
    policy.stop()
    try:
        with refused_with(sentence):
            alice.send(room, "hello")
    finally:
        policy.reset()
        policy.start()
    alice.send(room, "hello again")
    assert texts(alice.history(room)) == ["hello again"]


def test_silence_allows_where_it_is_to_fail_open(fresh_server: FreshServer, policy: PolicyServer) -> None:
    """POL-1: and what one policy server says counts, whatever another one does."""
    gone = f"http://127.0.0.1:{free_port()}/"
    servers = [{"url": gone, "hooks": HOOKS}, {"url": policy.url, "hooks": ["local_sends"], "timeout": 1.0}]
    server = fresh_server({"policy.servers": servers})
    alice = Client(server).register("alice")
    room = alice.create_room()
    policy.refuse("casino", "No gambling here.")
    with refused_with("No gambling here."):
        alice.send(room, "casino")
    policy.refuse("slow", "never said", seconds=3)
    alice.send(room, "slow")
    assert texts(alice.history(room)) == ["slow"]


def test_slow_policy_server_keeps_nobody_else_waiting(policy: PolicyServer, alice: Client, bob: Client) -> None:
    """POL-1: neither other rooms, nor others in the same room, nor who reads."""
    room, other = alice.create_room(visibility="public"), bob.create_room()
    bob.join(room)
    policy.refuse("slow", "No.", seconds=1.5)
    waiting = [
        alice.start("POST", f"/rooms/{quote(room)}/send/m.room.message", {"msgtype": "m.text", "body": "slow"})
        for _ in range(20)
    ]
    began = time.monotonic()
    sent = [bob.send(room, "quick"), bob.send(other, "quick")]
    assert sent[0] in ids(bob.history(room))
    assert time.monotonic() - began < 1.2
    assert all(answer.is_waiting() for answer in waiting)
    assert {answer.answer().status for answer in waiting} == {403}


def test_reason_is_made_harmless(policy: PolicyServer, alice: Client) -> None:
    """POL-1, SEC-1: what a policy server says is bounded, and on one line; without a reason there is a sentence."""
    room = alice.create_room()
    said: Json = {"allow": False, "reason": "a\r\nb\x1b[31m" + "c" * 1000}
    policy.verdict = lambda question: said
    with pytest.raises(ApiError) as refusal:
        alice.send(room, "hello")
    assert refusal.value.sentence.startswith("a  b [31mccc")
    assert len(refusal.value.sentence) <= 300
    policy.verdict = lambda question: {"allow": False}
    with refused_with("The policy of this server does not allow this."):
        alice.send(room, "hello")


def test_example_in_the_documentation_works(fresh_server: FreshServer) -> None:
    """POL-1: the small policy server that docs/ has."""
    port = free_port()
    script = ROOT / "docs" / "examples" / "policy_server.py"
    server = fresh_server(
        {"policy.servers": [{"url": f"http://127.0.0.1:{port}/check", "hooks": HOOKS, "on_failure": "closed"}]}
    )
    process = subprocess.Popen([sys.executable, script, "--port", str(port), "--word", "casino"])
    try:
        alice = wait_until("the policy server", lambda: _registered(server))
        room = alice.create_room()
        alice.send(room, "hello")
        with refused_with("Nobody may say 'casino' here."):
            alice.send(room, "the CASINO is open")
        with refused_with("Nobody may say 'casino' here."):
            Client(server).register("casino-bot")
    finally:
        process.terminate()
        process.wait()


def _registered(server: HomeServer) -> Client | None:
    try:
        return Client(server).register("alice")
    except ApiError:
        return None


def test_faulty_settings_are_told_with_their_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    """POL-1: a hook that does not exist, or no hook at all."""
    for servers in ([{"url": "http://p.example.org", "hooks": ["sends"]}], [{"url": "http://p.example.org"}]):
        with pytest.raises(RuntimeError, match=r"policy\.servers\[0\]\.hooks"):
            HomeServer(tmp_path_factory.mktemp("home") / "data", settings={"policy.servers": servers})
