"""State resolution: every server comes to the same state, and lost power stays lost (FED-8, SEC-2, SEC-6)."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from synapse_like.protocol.events import Event
from synapse_like.protocol.room_versions import SPEC_2014, V1, V2, V6, V11, V12, RoomRules
from synapse_like.protocol.state_resolution import MissingEvents, StateIds, Step, resolve
from tests.support.forking_rooms import CREATOR as ALICE
from tests.support.forking_rooms import START_MS, Branch, ForkingRoom
from tests.support.generated_rooms import BOB, CAROL, DAVE, grow, something_happens
from tests.support.naive_resolution import resolve_naively
from tests.support.server import ROOT

BY_POWER = (SPEC_2014, V2, V6, V11, V12)
ALL = (V1, *BY_POWER)

every_version = pytest.mark.parametrize("rules", ALL, ids=lambda rules: rules.name)
every_version_by_power = pytest.mark.parametrize("rules", BY_POWER, ids=lambda rules: rules.name)

# Each room takes some milliseconds to build.
some_rooms = settings(max_examples=30, deadline=None)
dice = st.randoms(use_true_random=False)
sizes = st.integers(5, 60)


def in_both_ways(rules: RoomRules, state_sets: Sequence[StateIds], events: Mapping[str, Event]) -> StateIds:
    state = resolve(rules, state_sets, events)
    assert state == resolve_naively(rules, state_sets, events)
    return state


def steps_of(room: ForkingRoom, *branches: Branch) -> dict[str, Step]:
    steps: list[Step] = []
    resolve(room.rules, [branch.state for branch in branches], room.events, explain=steps.append)
    return {step.name: step for step in steps}


def room_with_bob(rules: RoomRules, level: int = 0) -> Branch:
    """Alice made the room; Bob, who has a level, and Carol, who has none, are in it."""
    branch = ForkingRoom(rules).begin()
    for user in (BOB, CAROL):
        branch.member(user, "join")
    branch.levels(ALICE, {ALICE: 100, BOB: level})
    return branch


class TestEveryServerAgrees:
    """Whatever was said, and however it came in."""

    @every_version
    @some_rooms
    @given(random=dice, steps=sizes)
    def test_the_naive_way_comes_to_the_same(self, rules: RoomRules, random: Random, steps: int) -> None:
        room = ForkingRoom(rules, resolve=in_both_ways)
        branches = grow(room, random, steps)
        in_both_ways(rules, [branch.state for branch in branches], room.events)

    @every_version
    @some_rooms
    @given(random=dice, steps=sizes)
    def test_order_and_repetition_of_the_states_do_not_matter(
        self, rules: RoomRules, random: Random, steps: int
    ) -> None:
        room = ForkingRoom(rules)
        states = [branch.state for branch in grow(room, random, steps)]
        expected = resolve(rules, states, room.events)
        backwards = dict(reversed(room.events.items()))
        for order in permutations(states[:3]):
            shuffled = [dict(reversed(state.items())) for state in (*order, *states[3:], order[0])]
            assert resolve(rules, shuffled, backwards) == expected

    @every_version
    @some_rooms
    @given(random=dice, steps=sizes)
    def test_order_in_which_events_arrive_does_not_matter(self, rules: RoomRules, random: Random, steps: int) -> None:
        room = ForkingRoom(rules)
        grow(room, random, steps)
        servers = [Server(rules), Server(rules)]
        for server in servers:
            server.receive(list(room.events.values()), random)
        assert servers[0].current_state() == servers[1].current_state()

    @every_version
    @some_rooms
    @given(random=dice, steps=sizes)
    def test_batches_in_which_events_are_loaded_do_not_matter(
        self, rules: RoomRules, random: Random, steps: int
    ) -> None:
        room = ForkingRoom(rules)
        states = [branch.state for branch in grow(room, random, steps)]
        everything = list(room.events)
        held = set(random.sample(everything, random.randrange(len(everything))))
        state = resolve_with(room.events, rules, states, held)
        assert state == resolve(rules, states, room.events)

    @every_version
    @some_rooms
    @given(random=dice, steps=sizes)
    def test_nothing_but_state_is_asked_for(self, rules: RoomRules, random: Random, steps: int) -> None:
        room = ForkingRoom(rules)
        held: set[str] = set()
        resolve_with(room.events, rules, [branch.state for branch in grow(room, random, steps)], held)
        assert all(room.events[event_id].is_state for event_id in held)

    def test_the_seed_of_pythons_hashes_does_not_matter(self) -> None:
        program = (
            "from tests.protocol.test_state_resolution import resolved_rooms\n"
            "for state in resolved_rooms(): print(state)"
        )
        command = [sys.executable, "-c", program]
        processes = [
            subprocess.Popen(command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE)
            for seed in ("1", "2", "3")
        ]
        printed = {process.communicate(timeout=60)[0].decode() for process in processes}
        assert printed == {"".join(f"{state}\n" for state in resolved_rooms())}


def resolved_rooms() -> list[list[tuple[object, ...]]]:
    """The states of some rooms that are the same everywhere, and the steps that led there."""
    states = []
    for rules in ALL:
        for seed in range(5):
            room = ForkingRoom(rules)
            branches = grow(room, Random(seed), 60)
            steps: list[Step] = []
            state = resolve(rules, [branch.state for branch in branches], room.events, explain=steps.append)
            told = [(step.name, step.considered, step.chosen, sorted(step.refused.items())) for step in steps]
            states.append([*sorted(state.items()), *told])
    return states


@dataclass
class Server:
    """A server that hears of a room's events in some order, works out the state after each, and holds few of them.

    :ivar states: by event, the state after it.
    :ivar heads: the events that nothing follows on so far.
    """

    rules: RoomRules
    stored: dict[str, Event] = field(default_factory=dict)
    states: dict[str, StateIds] = field(default_factory=dict)
    heads: set[str] = field(default_factory=set)

    def receive(self, events: list[Event], random: Random) -> None:
        waiting = {event.event_id: event for event in events}
        while waiting:
            ready = [event for event in waiting.values() if self.states.keys() >= set(event.prev_events)]
            event = random.choice(ready)
            self._accept(event)
            del waiting[event.event_id]

    def current_state(self) -> StateIds:
        return self._resolve([self.states[head] for head in self.heads])

    def _accept(self, event: Event) -> None:
        self.stored[event.event_id] = event
        state = dict(self._resolve([self.states[prev] for prev in event.prev_events]))
        if event.is_state:
            state[event.state_slot] = event.event_id
        self.states[event.event_id] = state
        self.heads = (self.heads - set(event.prev_events)) | {event.event_id}

    def _resolve(self, states: list[StateIds]) -> StateIds:
        return resolve_with(self.stored, self.rules, states, set())


def resolve_with(store: Mapping[str, Event], rules: RoomRules, states: list[StateIds], held: set[str]) -> StateIds:
    """Resolve states as one does whose events must be loaded: none but those asked for.

    :param held: IDs of events that are at hand; what is asked for is added.
    """
    while True:
        try:
            return resolve(rules, states, {event_id: store[event_id] for event_id in held})
        except MissingEvents as missing:
            held.update(missing.ids)


class TestPowerThatWasTaken:
    """No fork that does not know of it gives it back."""

    @every_version_by_power
    @some_rooms
    @given(random=dice, steps=st.integers(1, 20), left=st.sampled_from([0, 25, 49, 50, 60]))
    def test_demotion_holds_whatever_happened_elsewhere(
        self, rules: RoomRules, random: Random, steps: int, left: int
    ) -> None:
        branch = room_with_bob(rules, level=75)
        elsewhere = branch.fork()
        branch.levels(ALICE, {ALICE: 100, BOB: left})
        for _ in range(steps):
            something_happens(elsewhere, random, (BOB, CAROL, DAVE))
        merged = branch.merge(elsewhere)
        assert merged.level(BOB) <= left
        assert max(merged.level(CAROL), merged.level(DAVE)) <= left

    @every_version_by_power
    @some_rooms
    @given(random=dice, steps=st.integers(1, 20))
    def test_ban_holds_whatever_happened_elsewhere(self, rules: RoomRules, random: Random, steps: int) -> None:
        branch = room_with_bob(rules, level=75)
        elsewhere = branch.fork()
        branch.member(ALICE, "ban", BOB)
        for _ in range(steps):
            something_happens(elsewhere, random, (BOB, CAROL, DAVE))
        merged = branch.merge(elsewhere)
        assert merged.membership(BOB) == "ban"
        assert merged.membership(ALICE) == "join"

    @every_version_by_power
    def test_what_the_demoted_did_elsewhere_falls(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules, level=75)
        branch.say(ALICE, "m.room.topic", {"topic": "hers"}, required_power_level=50)
        elsewhere = branch.fork()
        branch.levels(ALICE, {ALICE: 100})
        elsewhere.say(BOB, "m.room.topic", {"topic": "his"})
        elsewhere.member(BOB, "ban", CAROL)
        assert elsewhere.membership(CAROL) == "ban"
        merged = elsewhere.merge(branch)
        assert merged.event("m.room.topic") == branch.event("m.room.topic")
        assert merged.membership(CAROL) == "join"

    @every_version_by_power
    def test_what_they_did_before_stays(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules, level=75)
        branch.say(BOB, "m.room.topic", {"topic": "his"})
        branch.levels(ALICE, {ALICE: 100})
        elsewhere = branch.fork()
        branch.say(ALICE, "m.room.name", {"name": "a name"})
        elsewhere.member(DAVE, "join")
        merged = branch.merge(elsewhere)
        assert merged.event("m.room.topic") == branch.event("m.room.topic")
        assert merged.event("m.room.name") == branch.event("m.room.name")
        assert merged.membership(DAVE) == "join"

    @every_version_by_power
    @pytest.mark.parametrize(("later", "earlier"), [(BOB, CAROL), (CAROL, BOB)])
    def test_of_two_who_ban_each_other_the_one_who_holds_the_power_wins(
        self, rules: RoomRules, later: str, earlier: str
    ) -> None:
        branch = room_with_bob(rules)
        branches = {user: branch.fork() for user in (later, earlier)}
        for user, own in branches.items():
            own.levels(ALICE, {ALICE: 100, user: 75}, ts=START_MS + (2 if user == later else 1))
            own.member(user, "ban", earlier if user == later else later)
        merged = branches[BOB].merge(branches[CAROL])
        assert merged.membership(earlier) == "ban"
        assert merged.membership(later) == "join"


class TestByPower:
    """What room version 2 and those after it do."""

    @every_version_by_power
    def test_state_that_is_not_in_all_states_must_pass_the_rules(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules)
        elsewhere = branch.fork()
        branch.say(ALICE, "m.room.join_rules", {"join_rule": "invite"})
        elsewhere.member(DAVE, "join")
        assert branch.merge(elsewhere).membership(DAVE) == "none"

    @every_version_by_power
    def test_of_equals_the_later_and_then_the_higher_id_wins(self, rules: RoomRules) -> None:
        for event_type, contents in (
            ("m.room.join_rules", ({"join_rule": "public"}, {"join_rule": "invite"})),
            ("m.room.name", ({"name": "here"}, {"name": "there"})),
        ):
            branch = room_with_bob(rules)
            for times in ((1, 1), (1, 2), (2, 1)):
                forks = branch.fork(), branch.fork()
                said = [
                    fork.say(ALICE, event_type, content, ts=START_MS + time)
                    for fork, content, time in zip(forks, contents, times, strict=True)
                ]
                expected = max(said, key=lambda event: (event.origin_server_ts, event.event_id))
                assert forks[0].merge(forks[1]).event(event_type) == expected

    @every_version_by_power
    def test_what_follows_newer_power_levels_wins_whatever_its_timestamp(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules)
        elsewhere = branch.fork()
        branch.levels(ALICE, {ALICE: 100, BOB: 10})
        newer = branch.say(ALICE, "m.room.name", {"name": "newer"}, ts=START_MS)
        elsewhere.say(ALICE, "m.room.name", {"name": "older"}, ts=START_MS + 10**9)
        assert branch.merge(elsewhere).event("m.room.name") == newer

    def test_levels_of_2014_are_power_events_in_their_family_only(self) -> None:
        for rules, name in ((SPEC_2014, "power events"), (V2, "other events")):
            branch = room_with_bob(rules)
            elsewhere = branch.fork()
            branch.say(ALICE, "m.room.ops_levels", {"kick_level": 1})
            said = elsewhere.say(ALICE, "m.room.ops_levels", {"kick_level": 2})
            assert said.event_id in steps_of(branch.room, branch, elsewhere)[name].considered

    @every_version_by_power
    def test_events_that_cite_each_other_in_a_circle_never_become_state(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules)
        events = branch.room.events
        forks = branch.fork(), branch.fork()
        levels = [fork.levels(ALICE, {ALICE: 100, BOB: number}) for number, fork in enumerate(forks)]
        forks[0].say(ALICE, "m.room.name", {"name": "on a circle"})
        for event, other in zip(levels, reversed(levels), strict=True):
            cited = [cited for cited in event.auth_events if events[cited].type != event.type]
            events[event.event_id] = replace(event, auth_events=(*cited, other.event_id))
        merged = forks[0].merge(forks[1])
        assert merged.event("m.room.power_levels") is None
        assert merged.event("m.room.name") is not None

    @every_version_by_power
    def test_cited_events_that_are_not_state_do_not_become_state(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules, level=75)
        elsewhere = branch.fork()
        message = branch.say(BOB, "m.room.message", {"msgtype": "m.text", "body": "hello"}, None)
        topic = branch.say(BOB, "m.room.topic", {"topic": "x"})
        events = branch.room.events
        events[topic.event_id] = replace(topic, auth_events=(*topic.auth_events, message.event_id))
        merged = branch.merge(elsewhere)
        assert merged.event("m.room.topic") == events[topic.event_id]
        assert message.event_id not in merged.state.values()


class TestBeginningAnew:
    """What room version 12 does otherwise."""

    @pytest.mark.parametrize(("rules", "stays"), [(V11, False), (V12, True)])
    def test_nothing_is_refused_because_of_what_came_after_it(self, rules: RoomRules, stays: bool) -> None:
        branch = room_with_bob(rules)
        branch.member(DAVE, "join")
        branch.say(ALICE, "m.room.join_rules", {"join_rule": "invite"})
        forgetful = branch.fork()
        del forgetful.state["m.room.member", DAVE]
        assert branch.merge(forgetful).membership(DAVE) == ("join" if stays else "none")

    @pytest.mark.parametrize(("rules", "stays"), [(V11, False), (V12, True)])
    def test_what_somebody_set_who_left_since_is_not_lost(self, rules: RoomRules, stays: bool) -> None:
        """Problem A of MSC4297: a server that has forgotten the newest join rule."""
        branch = room_with_bob(rules)
        old_rule = branch.state["m.room.join_rules", ""]
        new_rule = branch.say(ALICE, "m.room.join_rules", {"join_rule": "invite"})
        branch.member(ALICE, "leave")
        forgetful = branch.fork()
        names = [branch.member(BOB, "join", content={"displayname": "B"})]
        names.append(forgetful.member(CAROL, "join", content={"displayname": "C"}))
        forgetful.state["m.room.join_rules", ""] = old_rule
        in_both_ways(rules, [branch.state, forgetful.state], branch.room.events)
        merged = branch.merge(forgetful)
        assert (merged.event("m.room.join_rules") == new_rule) == stays
        assert [merged.event(*name.state_slot) for name in names] == names

    @pytest.mark.parametrize(("rules", "stays"), [(V11, False), (V12, True)])
    def test_levels_that_many_steps_led_to_are_not_lost(self, rules: RoomRules, stays: bool) -> None:
        """Problem B of MSC4297: a server that has forgotten the two newest power levels."""
        branch = ForkingRoom(rules).begin()
        for user in (BOB, CAROL):
            branch.member(user, "join")
        oldest = branch.state["m.room.power_levels", ""]
        branch.levels(ALICE, {ALICE: 100, BOB: 50})
        newest = branch.levels(BOB, {ALICE: 100, BOB: 50, CAROL: 50})
        forgetful = branch.fork()
        forgetful.member("@eve:e.example", "join")
        forgetful.state["m.room.power_levels", ""] = oldest
        branch.member(DAVE, "join")
        in_both_ways(rules, [branch.state, forgetful.state], branch.room.events)
        merged = branch.merge(forgetful)
        assert (merged.event("m.room.power_levels") == newest) == stays
        assert [merged.membership(user) for user in (BOB, CAROL, DAVE, "@eve:e.example")] == ["join"] * 4

    @pytest.mark.parametrize(("rules", "is_considered"), [(V11, False), (V12, True)])
    def test_what_lies_between_events_in_conflict_is_considered(self, rules: RoomRules, is_considered: bool) -> None:
        branch = room_with_bob(rules)
        forgetful = branch.fork()
        between = branch.levels(ALICE, {ALICE: 100, BOB: 75})
        for fork in (branch, forgetful):
            fork.state["m.room.topic", ""] = branch.say(BOB, "m.room.topic", {"topic": "rests on it"}).event_id
        forgetful.state["m.room.topic", ""] = branch.state["m.room.topic", ""]
        branch.levels(BOB, {ALICE: 100, BOB: 75, CAROL: 10})
        told = steps_of(branch.room, branch, forgetful)["also in question"]
        assert (between.event_id in told.considered) == is_considered


class TestByDepth:
    """What room version 1 does."""

    def test_what_is_in_one_state_only_is_not_in_conflict(self) -> None:
        branch = room_with_bob(V1)
        elsewhere = branch.fork()
        branch.say(ALICE, "m.room.join_rules", {"join_rule": "invite"})
        branch.say(ALICE, "m.room.topic", {"topic": "x"})
        elsewhere.member(DAVE, "join")
        merged = branch.merge(elsewhere)
        assert merged.membership(DAVE) == "join"
        assert merged.event("m.room.topic") == branch.event("m.room.topic")

    def test_the_deepest_that_is_allowed_wins(self) -> None:
        branch = room_with_bob(V1, level=75)
        shallow, deep = branch.fork(), branch.fork()
        said = shallow.say(ALICE, "m.room.topic", {"topic": "shallow"})
        deep.levels(BOB, {ALICE: 100, BOB: 75, CAROL: 50})
        deep.say(BOB, "m.room.topic", {"topic": "his"})
        deep.say(CAROL, "m.room.topic", {"topic": "hers"})
        assert shallow.merge(deep).event("m.room.topic") == deep.event("m.room.topic")
        deep.state["m.room.power_levels", ""] = branch.state["m.room.power_levels", ""]
        assert shallow.merge(deep).event("m.room.topic") == said

    def test_if_none_is_allowed_the_shallowest_stays(self) -> None:
        branch = room_with_bob(V1, level=75)
        forks = branch.fork(), branch.fork()
        said = forks[0].say(BOB, "m.room.topic", {"topic": "shallow"})
        forks[1].say(ALICE, "m.room.name", {"name": "x"})
        forks[1].say(BOB, "m.room.topic", {"topic": "deep"})
        without_power = branch.levels(ALICE, {ALICE: 100}).event_id
        for fork in forks:
            fork.state["m.room.power_levels", ""] = without_power
        assert forks[1].merge(forks[0]).event("m.room.topic") == said

    def test_memberships_go_on_from_the_shallowest_as_long_as_they_are_allowed(self) -> None:
        branch = room_with_bob(V1, level=75)
        banning, leaving, renaming = branch.fork(), branch.fork(), branch.fork()
        ban = banning.member(BOB, "ban", CAROL)
        leaving.say(ALICE, "m.room.name", {"name": "x"})
        leave = leaving.member(CAROL, "leave")
        renaming.say(ALICE, "m.room.name", {"name": "y"})
        renaming.say(ALICE, "m.room.name", {"name": "z"})
        rename = renaming.member(CAROL, "join", content={"displayname": "Carol"})
        assert leaving.merge(renaming).membership(CAROL) == "join"
        assert banning.merge(leaving, renaming).membership(CAROL) == "ban"
        told = steps_of(branch.room, banning, leaving, renaming)["members"]
        assert told.considered == (ban.event_id, leave.event_id, rename.event_id)
        assert told.chosen == (ban.event_id,)
        assert told.refused.keys() == {leave.event_id}


class TestExplaining:
    """Who asks is told how a state came about."""

    def test_every_step_and_every_refusal_is_told(self) -> None:
        branch = room_with_bob(SPEC_2014, level=75)
        joined = branch.state["m.room.member", BOB]
        elsewhere = branch.fork()
        demotion = branch.levels(ALICE, {ALICE: 100}).event_id
        topic = elsewhere.say(BOB, "m.room.topic", {"topic": "his"}).event_id
        levels = branch.room.events[demotion].replaces_state
        steps: list[Step] = []
        resolve(SPEC_2014, [branch.state, elsewhere.state], branch.room.events, explain=steps.append)
        assert steps == [
            Step("in conflict", tuple(sorted((levels, demotion, topic)))),
            Step("also in question", (joined,)),
            Step("power events", (levels, demotion), (levels, demotion)),
            Step(
                "other events",
                (joined, topic),
                (joined,),
                {topic: "You need power level 50 to set m.room.topic here."},
            ),
        ]

    def test_nothing_is_told_without_a_conflict(self) -> None:
        branch = room_with_bob(SPEC_2014)
        assert steps_of(branch.room, branch, branch.fork()) == {}


class TestWhatIsMissing:
    """The caller learns what to load."""

    def test_the_error_names_it(self) -> None:
        branch = room_with_bob(SPEC_2014)
        elsewhere = branch.fork()
        ids = sorted(
            fork.say(ALICE, "m.room.name", {"name": name}).event_id
            for fork, name in ((branch, "here"), (elsewhere, "there"))
        )
        with pytest.raises(MissingEvents, match=r"^2 events are missing, \$.* among them$") as caught:
            resolve(SPEC_2014, [branch.state, elsewhere.state], {})
        assert list(caught.value.ids) == ids

    @every_version_by_power
    def test_members_of_a_large_room_are_not_needed_for_a_conflict_about_something_else(self, rules: RoomRules) -> None:
        branch = room_with_bob(rules, level=75)
        others = [branch.member(f"@user{number}:c.example", "join").event_id for number in range(20)]
        elsewhere = branch.fork()
        branch.say(BOB, "m.room.topic", {"topic": "his"})
        elsewhere.say(ALICE, "m.room.topic", {"topic": "hers"})
        elsewhere.member(DAVE, "join")
        held: set[str] = set()
        state = resolve_with(branch.room.events, rules, [branch.state, elsewhere.state], held)
        assert state == branch.merge(elsewhere).state
        assert held.isdisjoint(others)

    def test_what_all_agree_on_is_not_needed(self) -> None:
        branch = room_with_bob(SPEC_2014)
        assert resolve(SPEC_2014, [branch.state, branch.fork().state], {}) == branch.state


def test_without_states_there_is_no_state() -> None:
    assert resolve(SPEC_2014, [], {}) == {}
