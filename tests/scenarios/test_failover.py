"""A PostgreSQL whose replica takes its place: when it is killed, when it hangs, and when the replica lacks something.

The server has two processes and knows where both may be; nobody tells it which of them is the primary.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.scenarios.conftest import Unique, known, must_not_have_failed
from tests.support.client import Client, ids
from tests.support.federation import whole_history
from tests.support.needed import needed
from tests.support.postgres import HOW_TO_INSTALL, PostgreSQL, find_binaries
from tests.support.processes import wait_until
from tests.support.server import QUICK, HomeServer
from tests.support.talkers import Busy, Listener, Talker, busy

NAME = "home"


class Pair:
    """A primary and its replica, and the server that uses them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        binaries = needed(find_binaries(), "POSTGRES", HOW_TO_INSTALL)
        self.primary = PostgreSQL(binaries, keeps=True)
        stack.callback(self.primary.stop)
        self.primary.execute(f"CREATE DATABASE {NAME} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
        self.replica = PostgreSQL(binaries, keeps=True, primary=self.primary)
        stack.callback(self.replica.stop)
        self.server = HomeServer(folder / "data", self.primary.url(NAME, self.replica), {**QUICK, "processes": 2})
        stack.callback(self.server.close)
        self._is_whole = True

    def make_whole(self, *, is_synchronous: bool) -> None:
        """Have the primary followed."""
        if not self._is_whole:
            self.replica.follow(self.primary)
        self._is_whole = True
        self.primary.wait_for_replica(is_synchronous=is_synchronous)
        if not self.server.is_running:
            self.server.start()
        wait_until("the server's health", lambda: self.server.serves)
        self.server.forget_log()

    def change(self) -> None:
        """Make a primary of the replica; it is alone then."""
        self._is_whole = False
        self.replica.promote()
        self.primary, self.replica = self.replica, self.primary


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as stack:
        made = Pair(stack, tmp_path_factory.mktemp("failover"))
        with known(request, made.server):
            yield made


class People:
    """Two who talk in a room, and listen."""

    def __init__(self, server: HomeServer, unique: Unique) -> None:
        host, guest = Client(server).register(unique("host")), Client(server).register(unique("guest"))
        self.room = host.create_room(visibility="public")
        guest.join(self.room)
        self.listeners = [Listener(client) for client in (host, guest)]
        self.talkers = [Talker(ears.client.another_connection(), self.room, ears=ears) for ears in self.listeners]
        for talker in self.talkers:
            talker.breath = 0.1

    @property
    def everybody(self) -> list[Busy]:
        return [*self.talkers, *self.listeners]

    @property
    def said(self) -> dict[str, str]:
        return {text: event_id for talker in self.talkers for text, event_id in talker.said[self.room].items()}

    def wait_for_more(self, more: int = 10) -> None:
        """Wait until more has been acknowledged."""
        before = len(self.said)
        wait_until("messages to be acknowledged", lambda: len(self.said) >= before + more, seconds=60)

    def check(self) -> None:
        """Everything acknowledged is there once, and everybody has heard it once and in one order."""
        said = self.said
        for listener in self.listeners:
            wait_until("all to be heard", lambda: set(said.values()) <= set(listener.heard))  # noqa: B023 - called at once
            history = whole_history(listener.client.another_connection(), self.room)
            stored = [event["event_id"] for event in history if event["type"] == "m.room.message"]
            assert sorted(stored) == sorted(said.values()), "acknowledged is what is stored"
            assert [event_id for event_id in listener.heard if event_id in set(stored)] == stored
            assert max(Counter(listener.heard).values()) == 1, "something was told twice"


def test_nothing_acknowledged_is_lost_when_the_primary_is_killed(pair: Pair, unique: Unique) -> None:
    """API-4: the replica goes on where it stood, and so does everybody's event stream."""
    pair.make_whole(is_synchronous=True)
    people = People(pair.server, unique)
    processes = pair.server.process_ids
    with busy(people.listeners):
        with busy(people.talkers):
            people.wait_for_more()
            pair.primary.kill9()
            pair.change()
            people.wait_for_more()
        people.check()
    assert pair.server.process_ids == processes, "none of them has had to begin anew"
    must_not_have_failed(pair.server)


def test_a_primary_that_hangs_is_left_for_the_one_that_took_its_place(pair: Pair, unique: Unique) -> None:
    """API-4: its connections stand and say nothing; whoever waits for an answer does not wait for ever."""
    pair.make_whole(is_synchronous=True)
    people = People(pair.server, unique)
    processes = pair.server.process_ids
    with busy(people.listeners):
        with busy(people.talkers):
            people.wait_for_more()
            with pair.primary.standing_still():
                pair.change()
                people.wait_for_more()
                pair.replica.kill9()
        people.check()
    assert pair.server.process_ids == processes, "none of them has had to begin anew"
    must_not_have_failed(pair.server)


def test_what_the_replica_had_not_got_is_lost_and_nothing_after_it(pair: Pair, unique: Unique) -> None:
    """API-4: positions that were given out are not given out again, and nobody answers from what is no more."""
    pair.make_whole(is_synchronous=False)
    alice, bob = Client(pair.server).register(unique("alice")), Client(pair.server).register(unique("bob"))
    room = alice.create_room(visibility="public")
    bob.join(room)
    kept = alice.send(room, "kept")
    wait_until("the replica to have it", lambda: has(pair.replica, kept))
    pair.replica.follow_no_more()
    since = bob.present()
    lost = [alice.send(room, f"lost {number}") for number in range(3)]
    told, token = hear(bob, since, len(lost))
    assert told == lost
    pair.server.forget_log()
    wait_until("both processes to know of it", lambda: has_asked_both(pair.server, bob, token))
    processes = pair.server.process_ids[1:]
    pair.primary.kill9()
    pair.change()
    wait_until("other processes", lambda: not set(processes) & set(pair.server.process_ids), seconds=60)
    wait_until("the server's health", lambda: pair.server.serves)
    assert "the database lacks what was committed" in pair.server.recent_log()
    texts = [f"said {number}" for number in range(3)]
    content = {"msgtype": "m.text", "body": ""}
    again = alice.another_connection()
    said = [again.send_event(room, "m.room.message", {**content, "body": text}, text) for text in texts]
    assert hear(bob, token, len(said))[0] == said
    history = ids(whole_history(bob.another_connection(), room))
    assert history[-4:] == [kept, *said]
    verified = pair.server.command("verify")
    assert verified.returncode == 0, verified.stdout


def hear(client: Client, token: str, count: int) -> tuple[list[str], str]:
    """What somebody hears after a token, at least so many events, and where they stand then."""
    heard: list[str] = []
    while len(heard) < count:
        answer = client.another_connection().events(token, timeout=30_000)
        heard += ids(answer["chunk"])
        token = answer["end"]
    return heard, token


def has_asked_both(server: HomeServer, client: Client, token: str) -> bool:
    """Ask one of the processes for what comes after a token; whether each has answered that by now."""
    client.another_connection().events(token, timeout=0)
    asked = re.findall(r"answered process=(\d) .*/events status=200 .*", server.recent_log())
    return set(asked) == {"1", "2"}


def has(replica: PostgreSQL, event_id: str) -> bool:
    """Whether an event has come to a replica."""
    return bool(replica.execute(f"SELECT 1 FROM events WHERE event_id = '{event_id}'", NAME))
