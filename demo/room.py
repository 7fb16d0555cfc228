"""A room that is ready for whoever starts the demo: three people, one on each server, have begun to talk in it.

`prepare` makes what is missing of it and, when all is there, notes that; from then on it leaves everything to those who
play with the demo. It can be broken off at any point.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from people import NAMES, PATIENCE_SECONDS, Json, Person, Refused
from servers import DemoError, Server, data_folder

NAME = "Kitchen"
TOPIC = "One room on three servers"
#: The local part of its alias on each server.
ALIAS = "kitchen"

#: What they have said: user names and words.
WORDS = (
    ("alice", "Good morning! The kettle is on. Which server are you on?"),
    ("bob", "The second. Yours brought me your words in no time."),
    ("carol", "The third. So this kitchen has three doors, and everybody has their own copy of it ☕"),
    ("alice", "And if a server goes down?"),
    ("bob", "Then the others talk on, and it catches up when it is back. Try it: demo/stop.sh 3"),
    ("carol", "Why mine? 🙂"),
)

_CELLS = 5
_CELL_PIXELS = 24
_INK = bytes((248, 246, 240))


def is_ready() -> bool:
    """Whether it was made."""
    return _note().exists()


def room_id() -> str:
    """Its ID, once it is ready."""
    return _note().read_text().strip()


def prepare(servers: Sequence[Server]) -> None:
    """Make it, or what is missing of it.

    :param servers: all three, which run.
    :raises DemoError: it cannot be made.
    """
    people = [Person(*pair) for pair in zip(NAMES, servers, strict=True)]
    for person in people:
        person.enter()
        _introduce(person)
    room = _open(people[0])
    for person in people:
        person.call("POST", f"/join/{quote(_alias(people[0]))}", {})
        _give_alias(person, room)
    _wait_until("all to know that all are there", lambda: all(_sees_all(person, people, room) for person in people))
    _talk(people, room)
    for person in people:
        person.leave()
    _note().write_text(f"{room}\n")


def _note() -> Path:
    return data_folder() / "room"


def _alias(person: Person) -> str:
    return f"#{ALIAS}:{person.server.name}"


def _introduce(person: Person) -> None:
    """Give somebody a name and a picture, unless they have them."""
    path = f"/profile/{quote(person.user_id)}"
    profile = person.call("GET", path)
    if not profile.get("displayname"):
        person.call("PUT", f"{path}/displayname", {"displayname": NAMES[person.name]})
    if not profile.get("avatar_url"):
        person.call("PUT", f"{path}/avatar_url", {"avatar_url": person.upload(picture(person.name))})


def _open(host: Person) -> str:
    """Make the room, unless it is there; its ID."""
    wish: Json = {"room_alias_name": ALIAS, "visibility": "public", "name": NAME, "topic": TOPIC}
    try:
        return str(host.call("POST", "/createRoom", wish)["room_id"])
    except Refused as refusal:
        if refusal.errcode != "M_ROOM_IN_USE":
            raise
    return str(host.call("GET", f"/directory/room/{quote(_alias(host))}")["room_id"])


def _give_alias(person: Person, room: str) -> None:
    """Let the room have an alias on somebody's server, too."""
    path = f"/directory/room/{quote(_alias(person))}"
    try:
        person.call("GET", path)
    except Refused as refusal:
        if refusal.errcode != "M_NOT_FOUND":
            raise
        person.call("PUT", path, {"room_id": room})


def _talk(people: Sequence[Person], room: str) -> None:
    """Let them say what has not been said yet, each after all know what was said before."""
    for name, words in WORDS:
        speaker = next(person for person in people if person.name == name)
        line = f"{name}: {words}"
        if line not in speaker.history_of(room):
            speaker.say(room, words)
        _wait_until(f"“{line}” to be heard", partial(_all_have, people, room, line))


def _all_have(people: Sequence[Person], room: str, line: str) -> bool:
    return all(line in person.history_of(room) for person in people)


def _sees_all(person: Person, people: Sequence[Person], room: str) -> bool:
    """Whether somebody's server knows that all are members."""
    members = person.call("GET", f"/rooms/{quote(room)}/members")["chunk"]
    joined = {event["state_key"] for event in members if event["content"]["membership"] == "join"}
    return joined >= {other.user_id for other in people}


def _wait_until(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise DemoError(f"Waited {PATIENCE_SECONDS} s in vain for {what}.")
        time.sleep(0.05)


def picture(name: str) -> bytes:
    """A picture for a person: a pattern by which one knows them again, as PNG."""
    # Of the first ones, these made the friendliest faces.
    dice = sha256(f"3{name}".encode()).digest()
    paper = bytes(40 + byte % 150 for byte in dice[:3])
    rows = bytearray()
    for y in range(-1, _CELLS + 1):
        # Symmetric, as a face is; with a margin.
        cells = [abs(x - _CELLS // 2) * _CELLS + y for x in range(_CELLS)]
        inked = [0, *(int(0 <= y < _CELLS and dice[8 + cell] < 140) for cell in cells), 0]
        row = b"".join(bytes([ink]) * _CELL_PIXELS for ink in inked)
        rows += (b"\0" + row) * _CELL_PIXELS
    side = (_CELLS + 2) * _CELL_PIXELS
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", paper + _INK)
        + _chunk(b"IDAT", zlib.compress(bytes(rows), 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
