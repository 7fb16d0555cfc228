"""Who sees what of somebody: strangers, those who wait, are invited, have left or are banned, members and observers,
each on the same server and on another one (EVS-2, PRES-4, TYP-1, PROF-2, PROF-3, SEC-11).

A member of the other server keeps it in the room, so that it is sent everything; it is that server's affair to show it
only to those who may see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import FederationOf, in_good_order
from tests.scenarios.test_typing import types, typing_in
from tests.support.client import Client, Json, forbidden
from tests.support.federation import Federation
from tests.support.presence import Ears, change_list, list_of, presence_in, requests_in, set_status, status_of
from tests.support.processes import wait_until

RELATIONS = ("stranger", "waiting", "denied", "dropped", "observer", "invited", "left", "banned", "kicked", "member")
SEES_PRESENCE = {"observer", "member"}
PLACES = ("here", "there")


@pytest.fixture(scope="module")
def two_servers(federation_of: FederationOf, new_database: NewDatabase) -> Iterator[Federation]:
    with ExitStack() as stack:
        urls = [stack.enter_context(new_database()) for _ in range(2)]
        yield stack.enter_context(federation_of(*urls, presence__enabled=True))


@dataclass
class Cast:
    """Alice, and everybody else by where they live and what they are to her."""

    alice: Client
    room: str
    people: dict[tuple[str, str], Client] = field(default_factory=dict)
    ears: dict[tuple[str, str], Ears] = field(default_factory=dict)

    def listen(self) -> None:
        """Have everybody follow the stream from now on."""
        self.ears = {who: Ears(person) for who, person in self.people.items()}

    def hear(self) -> dict[tuple[str, str], list[Json]]:
        """What everybody is told, in more time than changes of presence are collected for."""
        self.ears["there", "stranger"].for_a_while(1.5)
        for ears in self.ears.values():
            ears.listen()
        return {who: ears.heard for who, ears in self.ears.items()}


@pytest.fixture
def cast(two_servers: Federation, unique: Unique) -> Iterator[Cast]:
    with in_good_order(two_servers) as federation:
        here, there = federation.servers
        alice = Client(here).register(unique("alice"))
        cast = Cast(alice, alice.create_room())
        for place, server in zip(PLACES, (here, there), strict=True):
            for relation in RELATIONS:
                cast.people[place, relation] = Client(server).register(unique(relation))
        for (_, relation), person in cast.people.items():
            _relate(cast, relation, person)
        # The members last: what the others were is known everywhere once they are in.
        for place in PLACES:
            _come(cast, cast.people[place, "member"])
        watching = cast.people["there", "member"]
        wanted = {"left": "leave", "kicked": "leave", "banned": "ban", "invited": "invite", "member": "join"}

        def all_agree() -> bool:
            for client in (alice, watching):
                members = client.members(cast.room)
                for (_, relation), person in cast.people.items():
                    if relation in wanted and members.get(person.user_id) != wanted[relation]:
                        return False
            return True

        wait_until("both servers to know who is what", all_agree)
        yield cast


def _come(cast: Cast, person: Client) -> None:
    cast.alice.invite(cast.room, person)
    wait_until("the invite", lambda: cast.room in person.synced_rooms())
    person.join(cast.room)


def _relate(cast: Cast, relation: str, person: Client) -> None:
    """Make somebody what they are to be."""
    alice, room = cast.alice, cast.room
    if relation in ("left", "banned", "kicked"):
        _come(cast, person)
        {
            "left": lambda: person.leave(room),
            "banned": lambda: alice.ban(room, person),
            "kicked": lambda: alice.kick(room, person),
        }[relation]()
        # Whoever is invited next must not be invited through a server that has just left.
        wait_until("the end of it", lambda: alice.members(room)[person.user_id] in ("leave", "ban"))
    elif relation == "invited":
        alice.invite(room, person)
    elif relation in ("waiting", "denied", "dropped", "observer"):
        change_list(person, invite=[alice.user_id])
        wait_until("the request", lambda: person.user_id in requests_in(alice.initial_sync()["presence"]))
        if relation != "waiting":
            change_list(alice, accept=[person.user_id])
            wait_until("the answer", lambda: list_of(person)[alice.user_id]["accepted"])
        if relation == "denied":
            change_list(alice, deny=[person.user_id])
            wait_until("the refusal", lambda: not list_of(person))
        if relation == "dropped":
            change_list(person, drop=[alice.user_id])


def test_each_sees_just_what_they_may_and_once(cast: Cast) -> None:
    """PRES-4, TYP-1, PROF-2, PROF-3, EVS-2."""
    alice, room = cast.alice, cast.room
    set_status(alice, "online")
    for place in PLACES:
        for relation in SEES_PRESENCE:
            ears = Ears(cast.people[place, relation])
            wait_until("alice to be seen", lambda ears=ears: status_of(ears.client, alice)["presence"] == "online")
    cast.listen()

    # Presence.
    set_status(alice, "free_for_chat", "hello")
    for place in PLACES:
        for relation in SEES_PRESENCE:
            cast.ears[place, relation].until_it_is(alice, "free_for_chat")
    heard = cast.hear()
    expected = {who: ["free_for_chat"] if who[1] in SEES_PRESENCE else [] for who in cast.people}
    assert {who: [state for state in presence_in(heard[who], alice) if state != "online"] for who in heard} == expected
    for who, person in cast.people.items():
        shown = presence_in([e for e in person.initial_sync()["presence"] if "user_id" in e["content"]], alice)
        assert shown == expected[who], who
        if who[1] in SEES_PRESENCE:
            assert status_of(person, alice)["status_msg"] == "hello"
        else:
            with forbidden():
                status_of(person, alice)

    # Typing.
    alice.present()
    cast.listen()
    types(alice, room)
    cast.ears["there", "member"].until(typing_in)
    heard = cast.hear()
    told = [{"user_ids": [alice.user_id]}]
    assert {who: [event["content"] for event in typing_in(heard[who])] for who in heard} == {
        who: told if who[1] == "member" else [] for who in heard
    }

    # A new name: members are told by the room, and those who see alice's presence by that.
    alice.present()
    cast.listen()
    alice.tell("displayname", "Alice ☕")
    for visibility in ("public", "shared-rooms", "presence-list", "private"):
        alice.tell(f"org.example.{visibility}", 1, visibility)
    for who in cast.people:
        if who[1] == "member":
            cast.ears[who].until(lambda heard: any(event["type"] == "m.room.member" for event in heard))
        if who[1] in SEES_PRESENCE:
            cast.ears[who].until(lambda heard: presence_in(heard, alice))
    heard = cast.hear()
    for who, events in heard.items():
        members = [event["content"] for event in events if event["type"] == "m.room.member"]
        presences = [event["content"] for event in events if event["type"] == "m.presence"]
        names = [content["displayname"] for content in presences if content["user_id"] == alice.user_id]
        assert [content["displayname"] for content in members] == (["Alice ☕"] if who[1] == "member" else []), who
        assert names == (["Alice ☕"] if who[1] in SEES_PRESENCE else []), who
        assert "org.example" not in str(events), who

    # Profile fields; another server does not say for whom it asks, so its users see what everybody may.
    for who, person in cast.people.items():
        place, relation = who
        opened = {"public"}
        if place == "here" and relation == "member":
            opened.add("shared-rooms")
        if place == "here" and relation == "observer":
            opened.add("presence-list")
        fields = {f"org.example.{visibility}": 1 for visibility in opened}
        assert person.profile(alice) == {"displayname": "Alice ☕", **fields}, who
        for visibility in ("public", "shared-rooms", "presence-list", "private"):
            status = person.request("GET", f"/profile/{alice.user_id}/org.example.{visibility}").status
            assert status == (200 if visibility in opened else 404), (who, visibility)
