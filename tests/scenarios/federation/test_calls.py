"""Calls between people on two servers."""

from __future__ import annotations

from tests.scenarios.federation.conftest import Meet, each_version
from tests.support.client import Client, Json

CALL = {"call_id": "12345", "version": 0}
CANDIDATES: list[Json] = [
    {"sdpMid": "audio", "sdpMLineIndex": 0, "candidate": "candidate:863018703 1 udp 2122260223 10.9.64.156 43670"},
    {"sdpMid": "video", "sdpMLineIndex": 1, "candidate": "candidate:863018703 2 udp 2122260222 10.9.64.156 43671"},
]
INVITE = {"lifetime": 30000, "offer": {"type": "offer", "sdp": "v=0\r\no=- 6584580628695956864 2 IN IP4 127.0.0.1"}}
ANSWER = {"answer": {"type": "answer", "sdp": "v=0\r\no=- 6584580628695956865 2 IN IP4 127.0.0.1"}}


@each_version
def test_call_is_offered_answered_and_ended(alice: Client, bob: Client, meet: Meet, version: str) -> None:
    """VOIP-1, EVT-4: each step is seen by the other as it was sent, and once."""
    room = meet(alice, bob, room_version=version)
    places = {client: client.present() for client in (alice, bob)}

    def say(speaker: Client, listener: Client, event_type: str, **content: object) -> None:
        said = {**CALL, **content}
        event_id = speaker.send_event(room, event_type, said)
        for client in (speaker, listener):
            [event], places[client] = client.events_until(places[client], event_id)
            assert (event["type"], event["user_id"], event["content"]) == (event_type, speaker.user_id, said)

    say(alice, bob, "m.call.invite", **INVITE)
    for candidate in CANDIDATES:
        say(alice, bob, "m.call.candidates", candidates=[candidate])
    say(bob, alice, "m.call.answer", **ANSWER)
    say(bob, alice, "m.call.candidates", candidates=CANDIDATES)
    say(bob, alice, "m.call.hangup")


def test_call_is_turned_down(alice: Client, bob: Client, meet: Meet) -> None:
    """VOIP-1."""
    room = meet(alice, bob)
    alice_since, bob_since = alice.present(), bob.present()
    invite = alice.send_event(room, "m.call.invite", {**CALL, **INVITE})
    bob.events_until(bob_since, invite)
    hangup = bob.send_event(room, "m.call.hangup", CALL)
    seen, _ = alice.events_until(alice_since, hangup)
    assert [event["event_id"] for event in seen] == [invite, hangup]
