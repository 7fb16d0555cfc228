"""Answers that are false, or that never end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from synapse_like.handlers.missing_events import MOST_ROUNDS
from tests.scenarios.conftest import Unique, above_storage
from tests.scenarios.federation.lying_peer.scene import (
    LONG_PATIENCE,
    Scene,
    alias_of,
    endless_body,
    honestly,
    hosted,
    more_power,
)
from tests.support.client import ApiError, Client, texts
from tests.support.federation import state_of, whole_history
from tests.support.lying_peer import Asked, LyingPeer
from tests.support.processes import wait_until

# Lies about what is missing, and answers without end.


def test_gaps_that_never_end_are_given_up(old_scene: Scene) -> None:
    """SEC-1, FED-6: each answer tells of more that is missing."""
    scene = old_scene

    def more(asked: Asked) -> object:
        made = []
        for event_id in asked.content["latest_events"]:
            event = scene.room.events.get(event_id)
            for prev in event.prev_events if event is not None else ():
                unknown = tuple(f"$gap-{len(scene.room.events)}-{n}:{scene.peer.name}" for n in range(20))
                pdu = scene.message("gap", event_id=prev, prev_events=unknown, depth=5)
                made.append(pdu)
                scene.room.events[prev], scene.room.pdus[prev] = scene.room.read(pdu), pdu
        return {"events": made, "pdus": made}

    scene.peer.answers["get_missing_events"] = more
    first = scene.message("end of the gap", prev_events=(f"$gap:{scene.peer.name}",), depth=6)
    scene.room.events[scene.room.id_of(first)] = scene.room.read(first)
    scene.room.before[scene.room.id_of(first)] = scene.room.state
    scene.peer.send(scene.server, [first])
    assert len(scene.peer.requests("get_missing_events")) <= MOST_ROUNDS
    assert len(scene.peer.asked) < 2 * MOST_ROUNDS
    scene.works_on()


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(lambda scene: {}, id="nothing"),
        pytest.param(lambda scene: {"pdus": [], "auth_chain": []}, id="empty"),
        pytest.param(lambda scene: {"pdus": [{}] * 10, "auth_chain": [1]}, id="nonsense"),
        pytest.param(lambda scene: (403, {"errcode": "M_FORBIDDEN", "error": "No."}), id="a refusal"),
    ],
)
def test_gap_that_is_bridged_with_nonsense_changes_nothing(old_scene: Scene, state: Callable[[Scene], object]) -> None:
    """FED-6, SEC-3: what cannot be placed does not get in, and who was let in stays."""
    scene = old_scene
    for kind in ("state", "state_ids"):
        scene.peer.answers[kind] = lambda asked: state(scene)
    scene.peer.answers["get_missing_events"] = lambda asked: {"events": [], "pdus": []}
    before = scene.sees()
    scene.peer.send(scene.server, [scene.message("lost", prev_events=(f"$lost:{scene.peer.name}",))])
    assert scene.sees()[0] == before[0]
    scene.works_on()


def test_state_told_to_bridge_a_gap_gives_nobody_power(old_scene: Scene) -> None:
    """FED-6, FED-8, SEC-2, SEC-6: though all of it was true once, or is signed by who may not say it."""
    scene = old_scene
    power = more_power(scene)
    ban = scene.room.make(scene.mallory, "m.room.member", {"membership": "ban"}, scene.tess)
    told = [*scene.room.told(scene.room.state.values()), power, ban]
    told = [pdu for pdu in told if scene.room.id_of(pdu) != scene.room.state["m.room.power_levels", ""]]
    chain = scene.room.told(scene.room.auth_chain(scene.room.state.values()))
    scene.peer.answers["state"] = lambda asked: {"pdus": told, "auth_chain": chain}
    scene.peer.answers["get_missing_events"] = lambda asked: {"events": [], "pdus": []}
    before = state_of(scene.alice, scene.room_id)
    lost = (f"$lost:{scene.peer.name}",)
    scene.peer.send(scene.server, [scene.message("bridge", prev_events=lost)])
    scene.peer.send(
        scene.server, [scene.room.make(scene.mallory, "m.room.topic", {"topic": "mine"}, "", prev_events=lost)]
    )
    assert state_of(scene.alice, scene.room_id) == before
    scene.works_on()


def endless_head(asked: Asked) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X-More: " + b"x" * 8000 + b"\r\n"


def drop_by_drop(asked: Asked) -> Iterator[bytes]:
    yield b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"x": "'
    while not asked.is_over.wait(0.2):
        yield b"x"


def silence(asked: Asked) -> Iterator[bytes]:
    while not asked.is_over.wait(0.2):
        yield b""


def larger_than_told(asked: Asked) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n{"
    while not asked.is_over.wait(0.2):
        yield b" "


@above_storage
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("make_join", endless_body),
        ("make_join", endless_head),
        ("make_join", drop_by_drop),
        ("make_join", silence),
        ("make_join", larger_than_told),
        ("send_join", endless_body),
        ("send_join", drop_by_drop),
    ],
)
def test_answer_that_never_ends_is_given_up(
    alice: Client, peer: LyingPeer, unique: Unique, kind: str, answer: Callable[[Asked], Iterator[bytes]]
) -> None:
    """SEC-1, FED-1: in good time, in little memory, and with a reason."""
    room = hosted(peer, unique, "spec-2014")
    peer.answers[kind] = answer
    before = alice.server.resident_bytes()
    begun = time.monotonic()
    with pytest.raises(ApiError) as error:
        alice.join(alias_of(peer, room))
    assert error.value.status in (502, 504)
    assert time.monotonic() - begun < 3 * LONG_PATIENCE
    assert alice.server.resident_bytes() - before < 350_000_000
    assert Client(alice.server).request("GET", "/health").status == 200


def test_server_that_never_tells_what_is_missing_keeps_no_other_room_waiting(
    old_scene: Scene, third: LyingPeer
) -> None:
    """SEC-1, FED-2, FED-6."""
    scene = old_scene
    for kind in ("get_missing_events", "state", "state_ids", "event_auth", "event", "pdu", "backfill"):
        scene.peer.answers[kind] = silence
    other = scene.alice.create_room(visibility="public")
    there = third.join(scene.server, other, scene.tess)
    with ThreadPoolExecutor(1) as threads:
        lost = scene.message("lost", prev_events=(f"$lost:{scene.peer.name}",))
        waiting = threads.submit(scene.peer.send, scene.server, [lost])
        wait_until("it to be asked", lambda: bool(scene.peer.requests("get_missing_events")))
        said = there.text(scene.tess, "meanwhile")
        assert third.send(scene.server, [said]) == {there.id_of(said): {}}
        assert scene.alice.send(scene.room_id, "also here")
        assert not waiting.done(), "nothing stood in the way"
        waiting.result(timeout=40)


def test_event_whose_past_cannot_be_had_now_waits_for_it(old_scene: Scene) -> None:
    """FED-2, FED-6: whoever has it cannot be reached, and that the others have it not does not make it false."""
    scene = old_scene
    scene.room.text(scene.mallory, "one")
    second = scene.room.text(scene.mallory, "two")
    for kind in ("get_missing_events", "state", "state_ids", "event_auth", "event", "pdu", "backfill"):
        scene.peer.answers[kind] = lambda asked: iter(())
    assert scene.peer.send(scene.server, [second]) == {scene.room.id_of(second): {}}
    assert "two" not in texts(scene.alice.history(scene.room_id))
    scene.peer.forget_answers()
    wait_until("what waits", lambda: texts(scene.alice.history(scene.room_id)) == ["one", "two"], seconds=60)


def test_paging_back_into_lies_shows_none_of_them(
    alice: Client, peer: LyingPeer, third: LyingPeer, unique: Unique
) -> None:
    """EVS-6, FED-10, SEC-7, SEC-8: history is checked like everything else."""
    room = hosted(peer, unique, "spec-2014")
    mallory = peer.user("mallory")
    true = [room.text(mallory, f"true {number}") for number in range(5)]
    forged = room.make(third.user("tess"), "m.room.message", {"msgtype": "m.text", "body": "forged"})
    stranger = room.make(peer.user("stranger"), "m.room.message", {"msgtype": "m.text", "body": "stranger"})
    altered = {**true[2], "content": {"msgtype": "m.text", "body": "altered"}}

    def lying(asked: Asked) -> object:
        answer = honestly(peer, asked)
        pdus = [altered if pdu == true[2] else pdu for pdu in answer["pdus"]]
        return {**answer, "pdus": [forged, *pdus, stranger, {}]}

    peer.answers["backfill"] = lying
    alice.join(alias_of(peer, room))
    shown = texts(whole_history(alice, room.room_id))
    assert not {"forged", "altered", "stranger"} & set(shown)
    assert [text for text in shown if text] == [f"true {number}" for number in (0, 1, 3, 4)]


def test_paging_back_comes_to_an_end_though_nobody_helps(alice: Client, peer: LyingPeer, unique: Unique) -> None:
    """EVS-6, FED-10, SEC-1."""
    room = hosted(peer, unique, "spec-2014")
    for number in range(5):
        room.text(peer.user("mallory"), str(number))
    for answer in (lambda asked: {"pdus": []}, lambda asked: (403, {}), lambda asked: {}, silence, endless_body):
        peer.answers["backfill"] = answer
        peer.answers["get_missing_events"] = answer
        if room.room_id not in alice.synced_rooms():
            alice.join(alias_of(peer, room))
        begun = time.monotonic()
        assert alice.user_id in [event.get("state_key") for event in whole_history(alice, room.room_id)]
        assert time.monotonic() - begun < 2 * LONG_PATIENCE
