"""What other servers send: every server makes the same of it, and nobody can make it into something else (FED-8, SEC-2,
SEC-3)."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from synapse_like.handlers.event_checks import Lacking, Verdict
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_reception import receive
from synapse_like.handlers.outliers import store_outliers
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.room_creation import create_event
from synapse_like.protocol.room_versions import SPEC_2014, V1, V2, V6, V11, V12, RoomRules
from synapse_like.storage import events, rooms
from synapse_like.storage.connections import Connection
from synapse_like.storage.events import Standing
from synapse_like.storage.transactions import Transaction
from tests.support.forking_rooms import CREATOR as ALICE
from tests.support.forking_rooms import Branch, ForkingRoom
from tests.support.generated_rooms import BOB, CAROL, USERS, grow
from tests.support.heard_rooms import SERVER, Listener, checked, some_causal_order

EVE = "@eve:e.example"

every_version = pytest.mark.parametrize("rules", [SPEC_2014, V1, V2, V6, V11, V12], ids=lambda rules: rules.name)
some_versions = pytest.mark.parametrize("rules", [SPEC_2014, V1, V6, V12], ids=lambda rules: rules.name)
# Each room takes a tenth of a second to build and hear, so no smaller ones are sought where one shows a fault. The
# database is left empty by each example.
few_rooms = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def say_redaction(branch: Branch, sender: str, target: str) -> Event | None:
    """Let somebody redact an event; None if the rules do not let them."""
    in_content = branch.room.rules.redacts_in_content
    content = {"redacts": target} if in_content else {}
    try:
        return branch.say_draft(EventDraft(branch.room_id, "m.room.redaction", sender, content, redacts=target))
    except AuthError:
        return None


class TestEveryServerMakesTheSameOfIt:
    """Whatever was said, and in whatever order and in whatever lots it came."""

    @every_version
    @few_rooms
    @given(dice=st.randoms(use_true_random=False), size=st.integers(5, 40))
    def test_in_whatever_order(self, connection: Connection, rules: RoomRules, dice: Random, size: int) -> None:
        """What each event saw, and what it was worth by that, never depends on the order; what the room has become,
        only if something came too late to be allowed, and then only until somebody has seen all of it."""
        room = ForkingRoom(rules)
        branches = grow(room, dice, size)
        for _ in range(3):
            say_redaction(dice.choice(branches), dice.choice(USERS), dice.choice(list(room.events)))
        said = list(room.events.values())
        meeting = branches[0].merge(*branches[1:])
        try:
            last = [meeting.say(ALICE, "m.room.message", {"msgtype": "m.text", "body": "I see"}, None)]
        except AuthError:
            last = []

        server = Listener(connection, rules, meeting.room_id)
        first, second = [], []
        for _ in range(2):
            server.hear_in_lots(some_causal_order(said, dice), dice)
            first.append(server.look())
            server.hear(last)
            second.append(server.look())
            server.forget()

        for seen in (*first, *second):
            assert seen.current == seen.at_head
        here, there = first
        assert here.before == there.before
        assert _rejected(here.standings) == _rejected(there.standings)
        if not here.has_soft_failed and not there.has_soft_failed:
            assert here == there
        here, there = second
        if last and here.standings[last[0].event_id] is there.standings[last[0].event_id] is Standing.ACCEPTED:
            assert here.current == there.current
            assert here.extremities == there.extremities
            # What comes after an event that was rejected does not take the place of what was before that one.
            assert _rejected(here.standings) or here.extremities == {last[0].event_id}

    @pytest.mark.parametrize(("rules", "seed"), [(SPEC_2014, 7), (SPEC_2014, 22), (V6, 27), (V12, 9), (V12, 25)])
    def test_state_that_came_too_late_but_holds_its_own(
        self, connection: Connection, rules: RoomRules, seed: int
    ) -> None:
        """FED-8, SEC-2: what holds where it was heard of in time holds everywhere, before anybody says another word."""
        dice = Random(seed)
        room = ForkingRoom(rules)
        branches = grow(room, dice, dice.randint(5, 40))
        said = list(room.events.values())
        server = Listener(connection, rules, branches[0].room_id)
        seen = []
        for _ in range(2):
            server.hear_in_lots(some_causal_order(said, dice), dice)
            seen.append(server.look())
            server.forget()
        here, there = seen
        assert here.has_soft_failed or there.has_soft_failed
        assert here.current == there.current


def _rejected(standings: dict[str, Standing]) -> set[str]:
    return {event_id for event_id, standing in standings.items() if standing is Standing.REJECTED}


class TestRedactions:
    @some_versions
    def test_one_that_came_before_its_target_and_was_redacted_itself(
        self, connection: Connection, rules: RoomRules
    ) -> None:
        """RED-2: it cannot be undone; and what it named can still come."""
        branch = ForkingRoom(rules).begin()
        target = branch.fork().say(ALICE, "m.room.topic", {"topic": "secret"})
        first = say_redaction(branch, ALICE, target.event_id)
        assert first is not None
        assert say_redaction(branch, ALICE, first.event_id) is not None
        others = [event for event in branch.room.events.values() if event is not target]
        server = Listener(connection, rules, branch.room_id)
        server.hear(others)
        server.hear([target])
        assert server.look().redacted == {target.event_id, first.event_id}

    @some_versions
    def test_one_of_an_event_whose_place_is_not_known_yet(self, connection: Connection, rules: RoomRules) -> None:
        """RED-2: when the event gets its place, nobody is shown what it was, whoever still has that."""
        branch = ForkingRoom(rules).begin()
        target = branch.fork().say(ALICE, "m.room.topic", {"topic": "secret"})
        redaction = say_redaction(branch, ALICE, target.event_id)
        server = Listener(connection, rules, branch.room_id)
        heard = [event for event in branch.room.events.values() if event not in (target, redaction)]
        server.hear(heard)

        def know(txn: Transaction) -> None:
            room = rooms.head(txn, branch.room_id)
            assert room is not None
            store_outliers(txn, room.room_nid, [checked(rules, target)])

        connection.transact(know)
        assert redaction is not None
        server.hear([redaction])
        server.hear([target])
        stored = connection.transact(events.find, target.event_id)
        assert stored is not None
        assert stored.place is not None
        assert stored.event.content == {}
        assert stored.redacted_because is not None


class TestLies:
    """Of somebody who is in the room, and signs what they like."""

    @staticmethod
    def victim(connection: Connection, rules: RoomRules) -> tuple[Listener, Branch]:
        branch = ForkingRoom(rules).begin()
        for user in (BOB, CAROL, EVE):
            branch.member(user, "join")
        branch.levels(ALICE, {ALICE: 100, EVE: 50})
        server = Listener(connection, rules, branch.room_id)
        server.hear(branch.room.events.values())
        return server, branch

    @staticmethod
    def say_after(branch: Branch, sender: str, body: str, heads: tuple[str, ...]) -> Event:
        """A message that claims to follow what it likes."""
        draft = EventDraft(branch.room_id, "m.room.message", sender, {"msgtype": "m.text", "body": body})
        return branch.room.add(draft, branch.state, heads=heads, depth=branch.depth + 1, ts=1)

    @some_versions
    def test_an_event_after_one_of_another_room(self, connection: Connection, rules: RoomRules) -> None:
        """The state of the room in which the liar is the master does not get into another one by it."""
        server, branch = self.victim(connection, rules)
        before = server.look()

        other_id = "!other:e.example" if rules.room_id_names_server else ""
        other = Branch(branch.room, other_id)
        create = other.say_draft(create_event(rules, other_id, EVE))
        other = Branch(branch.room, create.room_id, other.heads, other.state, other.depth)
        elsewhere = [create, other.member(EVE, "join")]
        elsewhere.append(other.say(EVE, "m.room.name", {"name": "Eve's"}))
        Listener(connection, rules, create.room_id).hear(elsewhere)

        bridge = self.say_after(branch, EVE, "over", (*branch.heads, *other.heads))
        follower = self.say_after(branch, EVE, "and in", (bridge.event_id,))
        [first] = server.hear([bridge])
        assert isinstance(first, Verdict)
        assert first.standing is Standing.REJECTED
        server.hear([follower])
        assert server.look().current == before.current
        assert server.look().at_head == before.at_head

    @some_versions
    def test_an_event_after_nothing(self, connection: Connection, rules: RoomRules) -> None:
        """What follows on it must not see whatever the room happens to be like at each server."""
        server, branch = self.victim(connection, rules)
        rootless = self.say_after(branch, EVE, "from nowhere", ())
        follower = self.say_after(branch, EVE, "from there", (rootless.event_id,))
        [first] = server.hear([rootless])
        assert isinstance(first, Verdict)
        assert first.standing is Standing.REJECTED
        server.hear([follower])
        assert follower.event_id not in server.look().before

    def test_an_event_that_was_read_by_the_rules_of_another_room(self, connection: Connection) -> None:
        """Where IDs are chosen, one might choose that of an event of a room where they are hashes."""
        server, branch = self.victim(connection, V6)
        true = branch.say(ALICE, "m.room.name", {"name": "true"})
        hashes = {"prev_hashes": ({},) * len(true.prev_events), "auth_hashes": ({},) * len(true.auth_events)}
        forged = replace(true, content={"name": "forged"}, **hashes)
        other = Listener(connection, V1, branch.room_id)
        [refused] = other.hear([forged])
        assert isinstance(refused, Verdict)
        assert refused.standing is Standing.REJECTED
        server.hear([true])
        assert server.look().standings[true.event_id] is Standing.ACCEPTED

    def test_an_event_of_no_membership_where_we_are_not(self, connection: Connection) -> None:
        """It is refused, like anything else; what came with it does not suffer."""
        branch = ForkingRoom(V6).begin()
        draft = EventDraft(branch.room_id, "m.room.member", ALICE, {"displayname": "Alice"}, ALICE)
        shapeless = replace(branch.room.events[branch.state["m.room.member", ALICE]], content=draft.content)

        def hear(txn: Transaction) -> Verdict | Lacking:
            rooms.know(txn, branch.room_id, V6)
            return receive(txn, EventPersistence(SERVER), checked(V6, shapeless))

        result = connection.transact(hear)
        assert isinstance(result, Verdict)
        assert result.standing is Standing.REJECTED
