"""Old history that one server has taken out of a room which others are in, too."""

from __future__ import annotations

from tests.support.client import Client, texts
from tests.support.processes import wait_until
from tests.support.server import HomeServer


def test_purged_history_does_not_come_back_from_others_and_the_room_goes_on(
    alice: Client, bob: Client, server_b: HomeServer
) -> None:
    room = alice.create_room(visibility="public")
    for number in range(5):
        alice.send(room, f"from before {number}")
    bob.join(room)
    alice.send(room, "since then")
    everything = [*(f"from before {number}" for number in range(5)), "since then"]
    wait_until("the history to be fetched", lambda: texts(bob.history(room)) == everything)

    done = server_b.command("purge-history", room, "--days", "0")
    assert done.stdout.startswith("Deleted 5 events"), done.stdout + done.stderr
    wait_until("it to go", lambda: said(bob, room) == ["since then"])
    bob.send(room, "an answer")
    wait_until("the answer", lambda: texts(alice.history(room)) == [*everything, "an answer"])
    alice.send(room, "another one")
    wait_until("the other one", lambda: said(bob, room) == ["since then", "an answer", "another one"])


def said(client: Client, room: str) -> list[str]:
    """What there is to read; of what had the highest number of all, an empty event stays until the next purge."""
    return [text for text in texts(client.history(room)) if text is not None]
