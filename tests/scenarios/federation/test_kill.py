"""Servers that are killed again and again, at whatever point they are: nothing acknowledged is lost, anywhere."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import Unique, must_not_have_failed
from tests.scenarios.federation.conftest import FederationOf, Meet
from tests.support.client import Client, ids
from tests.support.federation import Federation, wait_until_agree, whole_history
from tests.support.processes import wait_until
from tests.support.talkers import PATIENCE, Talker, busy

#: How often a server is killed; and how often where the databases are slower to start with.
KILLS = {"sqlite": 200, "postgresql": 30}
#: The longest that is waited before the next one, in seconds.
LONGEST_PAUSE = 0.6
#: How many kills of a hundred come before their server serves again.
UNREADY = 25


def kill_them_all(federation: Federation, kills: int, dice: Random) -> None:
    """Kill the servers in random order, each again some time after it was started."""
    for _ in range(kills):
        victim = dice.choice(federation.servers)
        if dice.randrange(100) >= UNREADY:
            victim.wait_until_healthy()
        time.sleep(LONGEST_PAUSE * dice.random())
        victim.kill9()
        victim.launch()
    for server in federation.servers:
        server.wait_until_healthy()


def stream_of(client: Client, since: str) -> list[str]:
    """The IDs of everything in a client's event stream, as often as it is there."""
    seen: list[str] = []
    while chunk := (answer := client.events(since))["chunk"]:
        seen += ids(chunk)
        since = answer["end"]
    return seen


@pytest.mark.timeout(900)
def test_killed_servers_lose_and_double_nothing(
    federation_of: FederationOf, database_kind: str, new_database: NewDatabase, unique: Unique, meet: Meet
) -> None:
    """FED-3, FED-6, SEC-4, API-4: neither their own words nor what they have told each other that they have."""
    with new_database() as one, new_database() as two, new_database() as three, federation_of(one, two, three) as homes:
        people = [Client(server).register(unique("talker")) for server in homes.servers]
        room = meet(*people)
        since = {client: client.present() for client in people}
        talkers = [Talker(client, room) for client in people]
        with busy(talkers):
            kill_them_all(homes, KILLS[database_kind], Random(1))
        said = {text: event_id for talker in talkers for text, event_id in talker.said[room].items()}
        assert len(said) > KILLS[database_kind], "there was hardly anything to lose"

        def all_is_there() -> bool:
            return all(set(said.values()) <= set(ids(whole_history(client, room))) for client in people)

        wait_until("everything to be everywhere", all_is_there, seconds=PATIENCE)
        wait_until_agree(room, *people, seconds=PATIENCE)
        for client in people:
            history = [event for event in whole_history(client, room) if event["type"] == "m.room.message"]
            assert {event["content"]["body"]: event["event_id"] for event in history} == said
            assert len(history) == len(said), "something is there twice"
            for talker in talkers:
                words = [event["event_id"] for event in history if event["user_id"] == talker.client.user_id]
                assert words == list(talker.said[room].values()), "somebody's words are in another order"
            streamed = [event_id for event_id in stream_of(client, since[client]) if event_id in said.values()]
            assert Counter(streamed) == Counter(said.values()), "a client was told something twice, or not at all"
        for server in homes.servers:
            must_not_have_failed(server)
