"""Coming into rooms that live elsewhere: what is believed of what others tell, and what becomes of what was here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from signedjson.key import generate_signing_key
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as HandMovedTime

from synapse_like.clock import ReactorClock
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.handlers import outside_memberships
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.membership import Membership, Wish
from synapse_like.handlers.remote_membership import RemoteMembership
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.protocol.errors import Forbidden
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.membership_templates import write_template
from synapse_like.protocol.room_versions import SPEC_2014, V1, V6, V12, RoomRules
from synapse_like.protocol.state_resolution import StateIds
from synapse_like.storage import accounts, gaps, membership, rooms
from synapse_like.storage.connections import Connection
from synapse_like.storage.retransmissions import Once
from synapse_like.storage.transactions import Transaction
from tests.storage.test_sharing import Process, prepare
from tests.storage.test_side_by_side import Paused, see_waiting
from tests.support.forking_rooms import CREATOR as ALICE
from tests.support.forking_rooms import START_MS, Branch, ForkingRoom
from tests.support.heard_rooms import SERVER, DirectDatabase, Listener, checked
from tests.support.postgres import PostgreSQL

OURS = f"@ours:{SERVER}"
SECOND = f"@second:{SERVER}"

some_versions = pytest.mark.parametrize("rules", [SPEC_2014, V1, V6, V12], ids=lambda rules: rules.name)


class Newcomer:
    """This server, which comes into a room of others."""

    def __init__(self, connection: Connection, rules: RoomRules) -> None:
        self.connection = connection
        self.rules = rules
        self.branch = ForkingRoom(rules).begin()
        time = HandMovedTime()
        time.advance(START_MS / 1000 + 3600)
        key = generate_signing_key("a_test")
        self.creation = EventCreation(SERVER, key, ReactorClock(time), EventPersistence(SERVER))
        unused: Any = None
        self.remote = RemoteMembership(unused, unused, unused, self.creation, RoomLocks(), unused)
        self.listener = Listener(connection, rules, self.branch.room_id)

    def join(self, branch: Branch, user_id: str) -> Event:
        """Let one of our users be let in by another server, and learn of it."""
        told = dict(branch.state)
        join = branch.member(user_id, "join")
        self.learn_of(join, told, [event for event in branch.room.events.values() if event is not join])
        return join

    def learn_of(self, join: Event, told: StateIds, known: Sequence[Event]) -> None:
        state = [checked(self.rules, event) for event in known if event.is_state]
        self.connection.transact(self.remote._enter, checked(self.rules, join), state, told)

    def say(self, event_type: str, content: dict[str, Any], *, state_key: str | None = None) -> Event:
        def say(txn: Transaction) -> Event:
            room = rooms.head(txn, self.branch.room_id)
            assert room is not None
            draft = EventDraft(self.branch.room_id, event_type, OURS, content, state_key)
            return self.creation.say(txn, room, draft).event

        return self.connection.transact(say)


@some_versions
def test_two_users_who_come_in_at_once(connection: Connection, rules: RoomRules) -> None:
    """What the first has said since is not forgotten when the second has been let in."""
    server = Newcomer(connection, rules)
    fork = server.branch.fork()
    first = server.join(server.branch, OURS)
    second = fork.member(SECOND, "join")
    told = {slot: event_id for slot, event_id in fork.state.items() if event_id != second.event_id}
    said = server.say("m.room.member", {"membership": "join", "displayname": "New"}, state_key=OURS)
    server.learn_of(second, told, [])
    seen = server.listener.look()
    assert seen.extremities == {said.event_id, second.event_id}
    assert seen.current == seen.at_head
    assert seen.current["m.room.member", OURS] == said.event_id
    assert seen.current["m.room.member", SECOND] == second.event_id
    assert said.prev_events == (first.event_id,)


@pytest.mark.parametrize(("said", "true"), [(V1, V6), (V6, V1), (SPEC_2014, V1)], ids=lambda rules: rules.name)
def test_an_invite_cannot_fix_the_version_of_a_room(connection: Connection, said: RoomRules, true: RoomRules) -> None:
    """Anybody can invite our users to any room that we do not know, and say that it has any version."""
    server = Newcomer(connection, true)
    liar = ForkingRoom(said).begin()
    invite = liar.member(ALICE, "invite", OURS)

    def begin(txn: Transaction) -> None:
        outside_memberships.begin(txn, checked(said, invite), server="liar.example", shown=[])

    connection.transact(begin)
    server.branch = ForkingRoom(true).begin()
    for _ in range(20):
        # So that the IDs of the true room are not those of the liar's.
        server.branch.member(ALICE, "join")
    join = server.join(server.branch, OURS)
    seen = server.listener.look()
    assert seen.current == seen.at_head
    assert seen.current["m.room.member", OURS] == join.event_id
    assert connection.transact(rooms.rules_of, server.branch.room_id) is true


@some_versions
def test_coming_back_after_all_our_users_had_left(connection: Connection, rules: RoomRules) -> None:
    """What was known of the room before is past: people who went, servers that went, state that went."""
    server = Newcomer(connection, rules)
    branch = server.branch
    branch.member("@bob:b.example", "join")
    server.join(branch, OURS)
    leave = branch.member(OURS, "leave")
    server.listener.hear([leave])
    branch.member("@bob:b.example", "leave")
    branch.member("@carol:c.example", "join")
    server.join(branch, OURS)
    seen = server.listener.look()
    assert seen.current == seen.at_head == branch.state

    def look(txn: Transaction) -> tuple[object, object]:
        rows = txn.all("SELECT server, joined FROM room_servers WHERE until IS NULL ORDER BY server")
        return [tuple(row) for row in rows], [
            change.membership for change in membership.changes(txn, OURS, after=0, up_to=2**40)
        ]

    servers, changes = connection.transact(look)
    assert servers == [("a.example", 1), ("c.example", 1)]
    assert changes == ["join", "leave", "join"]


@some_versions
def test_history_goes_on_before_a_join_that_follows_on_state(connection: Connection, rules: RoomRules) -> None:
    """EVS-6: what is here as a part of the state that we were told is not here as a part of the history."""
    server = Newcomer(connection, rules)
    last = server.branch.say(ALICE, "m.room.topic", {"topic": "last"})
    join = server.join(server.branch, OURS)

    def look(txn: Transaction) -> gaps.Gap | None:
        room = rooms.find(txn, server.branch.room_id)
        assert room is not None
        return gaps.newest(txn, room.room_nid, after=0, before_or_at=2**62)

    gap = connection.transact(look)
    assert gap is not None
    assert (gap.event_id, gap.missing) == (join.event_id, (last.event_id,))


def test_a_request_that_is_sent_again_while_another_server_is_asked(connection: Connection) -> None:
    """API-4: it is done once, and both are told what came of it."""
    server = Newcomer(connection, V6)
    invite = server.branch.member(ALICE, "invite", OURS)

    def begin(txn: Transaction) -> int:
        accounts.create(txn, OURS, password_hash=None, now_ms=1)
        outside_memberships.begin(txn, checked(V6, invite), server="a.example", shown=[])
        return accounts.add_token(txn, OURS, b"token", now_ms=1)

    token_id = connection.transact(begin)
    calls: list[Deferred[None]] = []

    class Slow:
        async def leave(self, _user_id: str, _room_id: str) -> None:
            if calls:
                raise Forbidden("You are not in this room.")
            calls.append(Deferred())
            await calls[0]

    unused: Any = None
    database: Any = DirectDatabase(connection)
    remote: Any = Slow()
    handler = Membership(database, server.creation, unused, remote)
    wish = Wish(OURS, server.branch.room_id, OURS, {"membership": "leave"})
    answers: list[object] = []
    for _ in range(2):
        Deferred.fromCoroutine(handler.put(wish, Once(token_id, "leave 1", 1))).addBoth(answers.append)
    calls[0].callback(None)
    assert answers == [invite.event_id] * 2


def test_who_waited_for_somebody_elses_join_does_not_ask_another_server(connection: Connection) -> None:
    """Nor does somebody whose own request came twice: they would be seen to join a second time."""
    server = Newcomer(connection, V6)
    server.join(server.branch, OURS)
    database: Any = DirectDatabase(connection)
    unused: Any = None
    remote = RemoteMembership(database, unused, unused, server.creation, RoomLocks(), unused)
    results: list[None] = []
    join = remote.join(SECOND, server.branch.room_id, ["a.example"], {})
    Deferred.fromCoroutine(join).addCallback(results.append)
    assert results == [None]


@some_versions
def test_who_is_unbanned_while_they_ask_to_be_let_in_is_let_in(connection: Connection, rules: RoomRules) -> None:
    """MEM-3: the other server knows of the end of the ban, and this one hears of it when it has asked."""
    server = Newcomer(connection, rules)
    branch = server.branch
    server.join(branch, OURS)
    server.listener.hear([branch.member(ALICE, "ban", OURS)])
    lifted = branch.member(ALICE, "leave", OURS)
    template = write_template(rules, branch.fork().member(OURS, "join"))
    asked: list[str] = []

    class Friend:
        async def make_membership(self, *_: object) -> object:
            server.listener.hear([lifted])
            return {"room_version": rules.name, "event": template}

        async def send_membership(self, _server: str, step: str, *_: object) -> object:
            asked.append(step)
            raise ServerUnreachable("a.example", "it is down")

    database: Any = DirectDatabase(connection)
    client: Any = Friend()
    unused: Any = None
    joins: Any = SimpleNamespace(under_way=nullcontext)
    remote = RemoteMembership(database, client, unused, server.creation, RoomLocks(), joins)
    Deferred.fromCoroutine(remote.join(OURS, branch.room_id, ["a.example"], {})).addErrback(lambda _: None)
    assert asked == ["join"]


def test_an_invite_that_is_turned_down_and_taken_back_at_two_processes_ends_once(postgresql: PostgreSQL) -> None:
    """FED-7: the user sees one end of it."""
    branch = ForkingRoom(V6).begin()
    invite = branch.member(ALICE, "invite", OURS)
    back = branch.member(ALICE, "leave", OURS)

    class Away:
        async def make_membership(self, server: str, *_: object) -> object:
            raise ServerUnreachable(server, "it is down")

    with postgresql.database() as url:
        prepare(url)
        one, two = Process(url), Process(url)
        try:

            def begin(txn: Transaction) -> None:
                accounts.create(txn, OURS, password_hash=None, now_ms=1)
                outside_memberships.begin(txn, checked(V6, invite), server="a.example", shown=[])

            one.result(one.database.write("begin", begin))
            client: Any = Away()
            unused: Any = None
            creation = EventCreation(
                SERVER, generate_signing_key("a_test"), ReactorClock(HandMovedTime()), EventPersistence(SERVER)
            )
            remote = RemoteMembership(two.database, client, unused, creation, RoomLocks(), unused)
            taken_back = Paused(one, branch.room_id, outside_memberships.end, checked(V6, back))
            turned_down = Deferred.fromCoroutine(remote.leave(OURS, branch.room_id))
            see_waiting(url, lambda: two.result(two.database.read("nothing", lambda _: None)))
            taken_back.go_on()
            assert two.result(turned_down) is None
            changes = two.result(two.database.read("changes", membership.changes, OURS, after=0, up_to=2**40))
            assert [change.membership for change in changes] == ["invite", "leave"]
        finally:
            for process in (one, two):
                process.database.stop()
