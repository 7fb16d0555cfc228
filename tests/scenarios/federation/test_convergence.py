"""Servers that did different things while they could not hear each other agree when they can (FED-8, SEC-2, SEC-4).

Nobody has to say anything more for that, unless somebody lost power meanwhile. What one may see of the past is the
same everywhere, too, as long as nobody was forbidden to speak meanwhile: where somebody was, their words of that time
are shown only where they were said before the news came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from random import Random

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, Meet, each_version, in_good_order
from tests.support.client import ApiError, Client, ids, quote
from tests.support.federation import Federation, wait_for_event, wait_until_agree, whole_history
from tests.support.processes import wait_until

#: Longer than the servers wait before they try again, after as long a silence as there is in these tests.
PATIENCE = 60

People = list[Client]


@pytest.fixture(scope="module")
def shared_five(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(5)]
        yield stack.enter_context(federation_of(*urls))


@pytest.fixture
def five(shared_five: Federation) -> Iterator[Federation]:
    """Five servers in good order."""
    with in_good_order(shared_five) as federation:
        yield federation


@pytest.fixture
def people(five: Federation, unique: Unique) -> People:
    """Somebody on each of them."""
    return [Client(server).register(unique("person")) for server in five.servers]


def set_levels(client: Client, room: str, levels: dict[Client, int]) -> str:
    """Give people power, or less of it; whoever is not named keeps theirs."""
    content = client.state_content(room, "m.room.power_levels")
    given = {other.user_id: level for other, level in levels.items()}
    content = {**content, "users": {**content["users"], **given}} if "users" in content else {**content, **given}
    return client.set_state(room, "m.room.power_levels", content)


def in_two(federation: Federation, people: Sequence[Client]) -> tuple[People, People]:
    """Part some people's servers into two groups that do not hear each other; the first person is in the first."""
    groups = list(people[::2]), list(people[1::2])
    federation.part([client.server for client in groups[0]], [client.server for client in groups[1]])
    return groups


def same_history(room: str, clients: Sequence[Client]) -> None:
    """See that people can read the same, and each thing once."""

    def they_do() -> bool:
        seen = [Counter(ids(whole_history(client, room))) for client in clients]
        return all(events == seen[0] for events in seen)

    wait_until("the same history for all", they_do, seconds=PATIENCE)
    assert max(Counter(ids(whole_history(clients[0], room))).values()) == 1


each_size = pytest.mark.parametrize("size", [2, 3, 5])


@each_size
@each_version
def test_one_of_two_edits_of_the_same_state_wins_everywhere(
    five: Federation, people: People, meet: Meet, size: int, version: str
) -> None:
    """FED-8, SEC-2, SEC-4."""
    people = people[:size]
    room = meet(*people, room_version=version, topic="Before")
    set_levels(people[0], room, dict.fromkeys(people[1:], 100))
    wait_until_agree(room, *people)
    groups = in_two(five, people)
    for number, group in enumerate(groups):
        for client in group:
            client.set_state(room, "m.room.topic", {"topic": f"By {client.user_id}"})
            client.send(room, f"in group {number}")
        wait_until_agree(room, *group)
    five.heal()
    state = wait_until_agree(room, *people, seconds=PATIENCE)
    assert ("m.room.topic", "") in state
    topics = {client.state_content(room, "m.room.topic")["topic"] for client in people}
    assert len(topics) == 1
    assert topics <= {f"By {client.user_id}" for client in people}
    same_history(room, people)


@each_size
@each_version
def test_whoever_was_demoted_meanwhile_has_banned_nobody(
    five: Federation, people: People, meet: Meet, unique: Unique, size: int, version: str
) -> None:
    """FED-8, SEC-2, SEC-6: neither where the ban was heard of first, nor where the demotion was."""
    people = people[:size]
    alice, bob = people[:2]
    victim = Client(people[-1].server).register(unique("victim"))
    room = meet(*people, victim, room_version=version)
    set_levels(alice, room, {bob: 50})
    wait_until_agree(room, *people, victim)
    _, with_bob = in_two(five, people)
    set_levels(alice, room, {bob: 0})
    bob.ban(room, victim)
    wait_until("the ban on its side", lambda: all(c.members(room)[victim.user_id] == "ban" for c in with_bob))
    five.heal()
    wait_until_agree(room, *people, seconds=PATIENCE)
    for client in people:
        assert client.members(room)[victim.user_id] == "join"
    wait_until_agree(room, *people, victim)
    wait_for_event(alice, room, victim.send(room, "still here"))


@each_version
def test_ban_that_does_not_hold_is_undone_where_the_banned_live(
    five: Federation, people: People, meet: Meet, version: str
) -> None:
    """FED-8, SEC-2, SEC-6: their server has nobody else in the room, and believed the ban."""
    alice, bob, carol = people = people[:3]
    room = meet(*people, room_version=version)
    set_levels(alice, room, {bob: 50})
    wait_until_agree(room, *people)
    since = carol.present()
    five.part([alice.server], [bob.server, carol.server])
    set_levels(alice, room, {bob: 0})
    meanwhile = alice.send(room, "meanwhile")
    bob.ban(room, carol)
    wait_until("carol to be out", lambda: room not in carol.synced_rooms())
    five.heal()
    wait_until("carol to be in again", lambda: room in carol.synced_rooms(), seconds=PATIENCE)
    wait_until_agree(room, *people, seconds=PATIENCE)
    assert carol.members(room)[carol.user_id] == "join"
    wait_for_event(carol, room, meanwhile)
    after = alice.send(room, "welcome back")
    carol.events_until(since, after)
    wait_for_event(alice, room, carol.send(room, "still here"))


@each_size
@each_version
def test_banned_operator_has_changed_nothing_meanwhile(
    five: Federation, people: People, meet: Meet, size: int, version: str
) -> None:
    """FED-8, SEC-2, SEC-6."""
    people = people[:size]
    alice, bob = people[:2]
    room = meet(*people, room_version=version, topic="Before", name="Name")
    set_levels(alice, room, {bob: 50})
    wait_until_agree(room, *people)
    in_two(five, people)
    alice.ban(room, bob)
    bob.set_state(room, "m.room.topic", {"topic": "Bob was here"})
    bob.set_state(room, "m.room.name", {"name": "Bob's"})
    five.heal()
    others = [client for client in people if client is not bob]
    wait_until_agree(room, *others, seconds=PATIENCE)
    for client in others:
        assert client.state_content(room, "m.room.topic") == {"topic": "Before"}
        assert client.members(room)[bob.user_id] == "ban"
    wait_until("bob to be out", lambda: room not in bob.synced_rooms(), seconds=PATIENCE)
    for client in others:
        client.send(room, "and on it goes")
    wait_until_agree(room, *others)


@each_version
def test_of_two_who_ban_each_other_one_stays(five: Federation, people: People, meet: Meet, version: str) -> None:
    """FED-8, SEC-6: the one who has more power; and what the other did meanwhile is undone."""
    alice, bob, carol, dora, _ = people
    room = meet(*people, room_version=version)
    set_levels(alice, room, {bob: 80, carol: 50})
    wait_until_agree(room, *people)
    five.part([bob.server], [client.server for client in people if client is not bob])
    bob.ban(room, carol)
    carol.ban(room, dora)
    five.heal()
    wait_until_agree(room, alice, bob, seconds=PATIENCE)
    assert alice.members(room)[carol.user_id] == "ban"
    assert alice.members(room)[bob.user_id] == "join"
    wait_until("carol to be out", lambda: room not in carol.synced_rooms(), seconds=PATIENCE)


@each_version
def test_closed_room_is_not_entered_by_who_has_not_heard_of_it(
    five: Federation, people: People, meet: Meet, unique: Unique, version: str
) -> None:
    """FED-8, SEC-2, MEM-1."""
    alice, bob, *_ = people
    room = meet(*people, room_version=version)
    alias = f"#{unique('back')}:{bob.server.name}"
    bob.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
    wait_until_agree(room, *people)
    five.part([alice.server], [client.server for client in people[1:]])
    alice.set_state(room, "m.room.join_rules", {"join_rule": "invite"})
    late = Client(people[2].server).register(unique("late"))
    late.join(alias)
    wait_until("the late one to be seen", lambda: bob.members(room).get(late.user_id) == "join")
    five.heal()
    wait_until_agree(room, *people, seconds=PATIENCE)
    for client in people:
        assert late.user_id not in client.members(room)


@pytest.mark.parametrize("version", ["spec-2014", "1"])
def test_aliases_that_change_on_all_sides_are_all_known_in_the_end(
    five: Federation, people: People, meet: Meet, unique: Unique, version: str
) -> None:
    """ROOM-4, FED-8: each server's are its own piece of state."""
    room = meet(*people, room_version=version)
    if version != "spec-2014":
        set_levels(people[0], room, dict.fromkeys(people[1:], 100))
        wait_until_agree(room, *people)
    five.part([client.server for client in people[:2]], [client.server for client in people[2:]])
    expected: dict[str, list[str]] = {}
    for client in people[1:]:
        aliases = [f"#{unique('alias')}:{client.server.name}" for _ in range(3)]
        for alias in aliases:
            client.call("PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
        client.call("DELETE", f"/directory/room/{quote(aliases[0])}")
        expected[client.server.name] = aliases[1:]
    five.heal()
    wait_until_agree(room, *people, seconds=PATIENCE)
    for client in people:
        for server_name, aliases in expected.items():
            told = client.state_content(room, "m.room.aliases", server_name)["aliases"]
            assert sorted(told) == sorted(aliases)


def test_partition_after_partition_leaves_one_history(five: Federation, people: People, meet: Meet) -> None:
    """SEC-4, FED-3, FED-6: and in it, nobody's words are in another order than they were said."""
    room = meet(*people)
    said: dict[Client, list[str]] = {client: [] for client in people}
    dice = Random(7)
    for _ in range(4):
        apart = dice.sample(people, dice.randint(1, 4))
        rest = [client for client in people if client not in apart]
        five.part([client.server for client in apart], [client.server for client in rest], silently=dice.random() < 0.3)
        for number in range(3):
            for client in people:
                said[client].append(client.send(room, f"{client.user_id} {number}"))
        five.heal()
    wait_until_agree(room, *people, seconds=PATIENCE)
    same_history(room, people)
    for reader in people:
        history = ids(whole_history(reader, room))
        for events in said.values():
            assert [event_id for event_id in history if event_id in events] == events


@pytest.mark.parametrize("version", ["spec-2014", "6", "11"])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_all_do_in_whatever_partition_all_agree_in_the_end(
    five: Federation, people: People, meet: Meet, version: str, seed: int
) -> None:
    """FED-8, SEC-2, SEC-4."""
    dice = Random(f"{seed} {version}")
    alice, *others = people
    room = meet(*people, room_version=version, topic="Before")
    set_levels(alice, room, dict(zip(others, (100, 75, 50, 0), strict=True)))
    wait_until_agree(room, *people)

    def topic(client: Client) -> object:
        return client.set_state(room, "m.room.topic", {"topic": f"{client.user_id} {dice.random()}"})

    def levels(client: Client) -> object:
        return set_levels(client, room, {dice.choice(others): dice.choice((0, 25, 50, 75, 100))})

    def name(client: Client) -> object:
        return client.set_state(room, "m.room.name", {"name": str(dice.random())})

    def talk(client: Client) -> object:
        return client.send(room, str(dice.random()))

    doings: list[Callable[[Client], object]] = [topic, topic, levels, name, talk, talk]
    for _ in range(4):
        apart = dice.sample(people, dice.randint(1, 4))
        rest = [client for client in people if client not in apart]
        five.part([client.server for client in apart], [client.server for client in rest])
        for client in dice.choices(people, k=12):
            try:
                dice.choice(doings)(client)
            except ApiError as error:
                if error.status not in (403, 404, 502, 504):
                    raise
        if dice.random() < 0.5:
            five.heal()
    five.heal()
    # What a server soft-failed enters its state when somebody builds on it, so each says a line, and
    # another that follows all the lines.
    for word in ("back", "again"):
        for event in [client.send(room, word) for client in people]:
            for client in people:
                wait_for_event(client, room, event, seconds=PATIENCE)
    wait_until_agree(room, alice, *others, seconds=PATIENCE)
