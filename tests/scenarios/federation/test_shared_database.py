"""Two processes of one server on one database, and another server: what both are asked at once is done once, and who
dies is replaced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.conftest import Unique
from tests.scenarios.federation.conftest import IMPATIENT
from tests.support.client import Client, Pending, ids, quote
from tests.support.federation import Federation, wait_until_agree, whole_history
from tests.support.postgres import PostgreSQL
from tests.support.processes import free_port, wait_until
from tests.support.server import HomeServer

TEXT = {"msgtype": "m.text", "body": "once"}


class Second(HomeServer):
    """Another process of a server, beside the first, on other ports."""

    def __init__(self, first: HomeServer) -> None:
        self.__dict__.update(first.__dict__)
        self.port, self.federation_port, self._process, self._log_mark = free_port(), free_port(), None, 0
        settings = first.config.read_text()
        for old, new in ((first.port, self.port), (first.federation_port, self.federation_port)):
            settings, count = re.subn(rf"(port: *){old}\b", rf"\g<1>{new}", settings)
            assert count == 1
        self.config.write_text(settings)

    @property
    def config(self) -> Path:
        return self.data_dir / "second.yaml"

    @property
    def log(self) -> Path:
        return self.data_dir / "second.log"


class Homes:
    """The servers: `there` is another, `one` and `two` are the same."""

    def __init__(self, federation: Federation, second: HomeServer) -> None:
        self.there, self.one = federation.servers
        self.two = second

    def both(self, client: Client, method: str, path: str, body: object) -> tuple[Pending, Pending]:
        """Ask both processes at the same time."""
        first, second = (Client(server, token=client.token) for server in (self.one, self.two))
        return first.start(method, path, body), second.start(method, path, body)


@pytest.fixture(scope="module")
def homes(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    with postgresql.database() as url_there, postgresql.database() as url:
        settings = {**IMPATIENT, "log.level": "debug", "database.shared": True}
        federation = Federation(tmp_path_factory.mktemp("homes"), [url_there, url], settings)
        second = None
        try:
            federation.start()
            second = Second(federation.servers[1])
            yield Homes(federation, second.start())
        finally:
            if second is not None:
                second.close()
            federation.close()


def test_what_both_are_asked_at_once_is_done_once(homes: Homes, unique: Unique) -> None:
    """API-4, ROOM-2: the same request, the same name and the same alias at two processes."""
    name = unique("alice")
    body = {"type": "m.login.password", "user": name, "password": "correct horse"}
    answers = [pending.answer() for pending in homes.both(Client(homes.one), "POST", "/register", body)]
    assert sorted(answer.status for answer in answers) == [200, 400]
    assert {answer.json.get("errcode") for answer in answers} == {None, "M_USER_IN_USE"}
    alice = Client(homes.two).login(name)

    alias = unique("alias")
    answers = [pending.answer() for pending in homes.both(alice, "POST", "/createRoom", {"room_alias_name": alias})]
    assert {answer.json.get("errcode") for answer in answers} == {None, "M_ROOM_IN_USE"}

    room = alice.create_room()
    path = f"/rooms/{quote(room)}/send/m.room.message/the-same"
    for _ in range(3):
        sent = [pending.json()["event_id"] for pending in homes.both(alice, "PUT", path, TEXT)]
        assert len(set(sent)) == 1
    assert [event["content"] for event in whole_history(alice, room) if event["type"] == "m.room.message"] == [TEXT]


def test_two_come_into_a_room_elsewhere_by_two_processes_at_once(homes: Homes, unique: Unique) -> None:
    """FED-6: both are in it, and all agree on who is there."""
    carol = Client(homes.there).register(unique("carol"))
    for _ in range(3):
        room = carol.create_room(visibility="public", room_alias_name=unique("alias"))
        alias = next(event["content"]["aliases"][0] for event in carol.state(room) if event["type"] == "m.room.aliases")
        people = [Client(server).register(unique("person")) for server in (homes.one, homes.two)]
        joins = [person.start("POST", f"/join/{quote(alias)}", {}) for person in people]
        for join in joins:
            assert join.json()["room_id"] == room
        wait_until_agree(room, carol, *people)
        assert carol.members(room) == {person.user_id: "join" for person in (carol, *people)}


def test_what_is_said_to_a_newcomer_before_the_room_is_stored_is_not_lost(homes: Homes, unique: Unique) -> None:
    """FED-6: the one that comes in and the one that hears of it are two processes."""
    carol = Client(homes.there).register(unique("carol"))
    for _ in range(5):
        room = carol.create_room(visibility="public", room_alias_name=unique("alias"))
        alias = next(event["content"]["aliases"][0] for event in carol.state(room) if event["type"] == "m.room.aliases")
        person = Client(homes.two).register(unique("person"))
        join = person.start("POST", f"/join/{quote(alias)}", {})
        wait_until("the newcomer", lambda: person.user_id in carol.members(room))  # noqa: B023 - called at once
        welcome = carol.send(room, "welcome")
        assert join.json()["room_id"] == room
        wait_until("the welcome", lambda: welcome in ids(whole_history(person, room)))  # noqa: B023 - called at once


def test_who_sends_to_a_server_is_replaced_when_they_die(homes: Homes, unique: Unique) -> None:
    """FED-3: whichever process a message comes to, the other server has it, in order and once; also after kill -9."""
    carol = Client(homes.there).register(unique("carol"))
    alice, bob = Client(homes.one).register(unique("alice")), Client(homes.two).register(unique("bob"))
    room = alice.create_room(visibility="public")
    alice.invite(room, carol)
    wait_until("the invite", lambda: room in carol.synced_rooms())
    carol.join(room)
    bob.join(room)
    said = [client.send(room, f"{n}") for n in range(5) for client in (alice, bob)]
    wait_until("all of it", lambda: set(said) <= set(ids(whole_history(carol, room))))
    [owner] = [server for server in (homes.one, homes.two) if "are sent to from here" in server.log.read_text()]
    left = bob if owner is homes.one else alice
    owner.kill9()
    said.append(left.send(room, "after"))
    wait_until("it to be sent by the other", lambda: said[-1] in ids(whole_history(carol, room)))
    heard = [event for event in ids(whole_history(carol, room)) if event in said]
    assert heard == said
    owner.start()
