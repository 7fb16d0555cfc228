"""Makes the corpus that the fuzzer begins with: `python -m tests.fuzz.make_corpus`.

Each file is one input of `tests.support.untrusted.read_input`: a letter for the room version ("A" for the first of
`ALL_RULES`), then what a stranger sends. Nothing here depends on chance, so making it anew changes no file. Inputs that
the fuzzer found are beside these, with names that begin with `found-`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unpaddedbase64 import encode_base64

from synapse_like.protocol.events import EventDraft, Pdu
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules
from synapse_like.protocol.signing import sign_json
from synapse_like.protocol.wire_formats import to_pdu
from tests.support.forking_rooms import CREATOR, Branch, ForkingRoom
from tests.support.untrusted import KEY, SERVER

CORPUS = Path(__file__).parent / "corpus"
BOB = "@bob:b.example"
CAROL = "@carol:c.example"
_HASH = "x" * 43

_TEXTS = {
    "user": "@bob:b.example",
    "user-in-capitals": "@Bob:B.Example:8448",
    "alias": "#tea and cake:a.example",
    "room": "!room:[2001:db8::1]:8448",
    "room-by-hash": f"!{_HASH}",
    "event": "$1:127.0.0.1",
    "event-by-hash": f"${_HASH}",
    "server": "sub.a-b.example:65535",
    "type": "m.room.power_levels",
}
_JSON = {
    "integers": "[9007199254740991, 9007199254740992, -9223372036854775809, 18446744073709551616, 1e5, -0, 0.5]",
    "text": '["\\u00e9\\ud83d\\ude00\\u0000", "é", "\\\\"]',
    "nested": '{"a": [{"": [[], {}, null, true]}]}',
    "half-a-surrogate-pair": '["\\ud800", 1234567890123456789]',
    "no-numbers": "[NaN, 1234567890123456789]",
    "signed": json.dumps(sign_json({"mxid": BOB, "token": "t", "public_key": "AAAA"}, SERVER, KEY)),
}
_CONTENTS: dict[str, dict[str, Any]] = {
    "image": {
        "msgtype": "m.image",
        "url": "u",
        "body": {},
        "info": {"w": 1, "h": 1, "size": 1, "mimetype": "image/png"},
    },
    "call": {
        "call_id": "1",
        "version": 0,
        "lifetime": 1,
        "offer": {"type": "offer", "sdp": "s"},
        "candidates": [{"sdpMid": "a", "sdpMLineIndex": 0, "candidate": "c"}],
    },
    "levels": {
        "users": {CREATOR: 100, BOB: "50", CAROL: 7.5},
        "users_default": 0,
        "events": {"m.room.name": 50},
        "state_default": 50,
        "notifications": {"room": 50},
        "invite": " +050 ",
    },
    "ops": {"ban_level": 50, "kick_level": 50, "redact_level": 50, "level": 50},
    "key-of-identity-server": {
        "display_name": "b",
        "key_validity_url": "u",
        "public_key": "AAAA",
        "public_keys": [{"public_key": "AAAA"}],
    },
    "restricted": {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!room:a.example"}]},
}


def inputs() -> Iterator[tuple[str, bytes]]:
    """Every input, and the name of its file."""
    for name, text in _TEXTS.items():
        yield f"text-{name}", f"A{text}".encode()
    for name, text in _JSON.items():
        yield f"json-{name}", f"B{text}".encode()
    for name, content in _CONTENTS.items():
        yield f"content-{name}", b"C" + json.dumps(content).encode()
    for number, rules in enumerate(ALL_RULES):
        letter = chr(ord("A") + number).encode()
        pdus = small_room(rules)
        yield f"pdu-{rules.name}", letter + json.dumps(pdus[-1]).encode()
        yield f"room-{rules.name}", letter + json.dumps(pdus).encode()


def small_room(rules: RoomRules) -> list[Pdu]:
    """What was said in a small room: people came, were given power, invited, banned; and it forked."""
    room = ForkingRoom(rules)
    branch = room.begin()
    branch.member(BOB, "join")
    branch.levels(CREATOR, {CREATOR: 100, BOB: 50})
    if rules.third_party_invites:
        _invite_an_address(branch)
    other = branch.fork()
    branch.member(BOB, "ban", CAROL)
    other.member(CAROL, "join")
    other.levels(CREATOR, {CREATOR: 100, CAROL: 50})
    both = branch.merge(other)
    said = both.say(CREATOR, "m.room.message", {"msgtype": "m.text", "body": "Tea?"}, None)
    both.say_draft(
        EventDraft(both.room_id, "m.room.redaction", CREATOR, _redaction(rules, said.event_id), None, said.event_id)
    )
    return [to_pdu(rules, event) for event in room.events.values()]


def _redaction(rules: RoomRules, target: str) -> dict[str, Any]:
    return {"reason": "late", **({"redacts": target} if rules.redacts_in_content else {})}


def _invite_an_address(branch: Branch) -> None:
    public = encode_base64(KEY.verify_key.encode())
    branch.say(
        CREATOR, "m.room.third_party_invite", {"display_name": "d", "key_validity_url": "u", "public_key": public}, "t"
    )
    signed = sign_json({"mxid": "@dave:d.example", "token": "t"}, "id.example", KEY)
    branch.member(
        CREATOR, "invite", "@dave:d.example", content={"third_party_invite": {"display_name": "d", "signed": signed}}
    )


def main() -> None:
    """Write the files."""
    CORPUS.mkdir(exist_ok=True)
    for name, data in inputs():
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
