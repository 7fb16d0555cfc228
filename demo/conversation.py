#!/usr/bin/env python3
"""Three people on three servers talk in one room, one of the servers goes away, comes back, and has missed nothing.

It asks the servers as any client does, by the API v1, and prints what happens. Whatever it says is what it has seen:
where something does not happen, it says so and ends with exit code 1.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, zip_longest
from urllib.parse import quote

from people import NAMES, Json, Person, Refused
from servers import HERE, DemoError, Server, data_folder, find_servers

# What is shown.


def tell(text: str = "") -> None:
    """Print a paragraph."""
    print(textwrap.fill(text, 78))
    sys.stdout.flush()


def show_beside_each_other(people: Sequence[Person], columns: Sequence[Sequence[str]]) -> None:
    """Print what each of them sees, in a column for each."""
    width = max(20, min(shutil.get_terminal_size((96, 24)).columns, 120) // len(people) - 3)

    def cells(texts: Sequence[str], rule: str = " | ") -> None:
        wrapped = [textwrap.wrap(text, width, subsequent_indent="  ") for text in texts]
        for row in zip_longest(*wrapped, fillvalue=""):
            print("  " + rule.join(part.ljust(width) for part in row).rstrip())

    print()
    cells([f"{person.name} on {person.server.name}" for person in people])
    cells(["-" * width for _ in people], "-+-")
    for row in zip_longest(*columns, fillvalue=""):
        cells(row)
    print()


def talk(room: str, said: Sequence[tuple[Person, str]], listeners: Sequence[Person]) -> None:
    """Let people say something, each after all have heard what was said before."""
    for speaker, text in said:
        begin = time.monotonic()
        speaker.say(room, text)
        times = []
        for person in listeners:
            person.hear(room, text)
            if person is not speaker:
                times.append(f"{person.name} {1000 * (time.monotonic() - begin):.0f} ms")
        print(f"  {f'{speaker.name}: {text}':<58} ({', '.join(times)})", flush=True)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """A server is away; it is started again whatever happens meanwhile."""
    _run("stop.sh", server)
    try:
        yield
    finally:
        print(flush=True)
        _run("start.sh", server)


def _run(script: str, server: Server) -> None:
    print(f"  $ demo/{script} {server.number}", flush=True)
    done = subprocess.run([HERE / script, str(server.number)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(done.stdout + done.stderr)


# The story.


def main(version: str | None) -> None:
    """Tell it.

    :param version: whose rules the room has, such as 12; the server's choice if None.
    :raises DemoError: something did not happen.
    """
    servers = find_servers()
    away = [server.name for server in servers if server.pid() is None]
    if away:
        raise DemoError(f"{', '.join(away)} cannot have a conversation: start all servers with demo/start.sh first.")
    people = alice, bob, carol = [Person(*pair) for pair in zip(NAMES, servers, strict=True)]

    tell("Three servers, and a person on each:")
    print()
    for person in people:
        person.enter()
        print(f"  {person.user_id:<24} talks to {person.server.url}")
    print()

    room = meet(alice, bob, carol, version)

    tell("They talk. Each says it to their own server, which tells the others; in how long, is in brackets.")
    print()
    talk(
        room,
        [
            (alice, "Welcome! The kettle is on."),
            (bob, "Good to be here. Is there milk?"),
            (carol, "I brought some, and a lemon."),
            (alice, "Then nothing is missing."),
        ],
        people,
    )
    print()
    tell("What each of them saw, in the event stream of their own server:")
    columns = [person.heard_in(room) for person in people]
    show_beside_each_other(people, columns)
    expect_the_same("what they saw", people, columns)

    missed = [
        (bob, "Where has Carol gone?"),
        (alice, "Her server is down. She will read it later."),
        (bob, "Then I keep her a scone."),
    ]
    tell("Now Carol's server goes away, and the others talk on without it.")
    print()
    with stopped(carol.server):
        print()
        talk(room, missed, [alice, bob])
        topic = f"A scone is kept for Carol (since {time.strftime('%H:%M:%S')})"
        alice.call("PUT", f"/rooms/{quote(room)}/state/m.room.topic", {"topic": topic})
        print()
        tell(f"Alice changes the topic, too: “{topic}”.")
    back = time.monotonic()
    for _, text in missed:
        carol.hear(room, text)
    carol.listen("the new topic", lambda event: event["content"].get("topic") == topic)
    print()
    tell(
        f"Carol goes on in her event stream where she was. {time.monotonic() - back:.1f} s after her server's return "
        "she has read all of it, and answers."
    )
    print()
    talk(room, [(carol, "A scone! I am on my way.")], people)
    print()

    tell("The history of the room as each server keeps it:")
    columns = [person.history_of(room) for person in people]
    show_beside_each_other(people, columns)
    expect_the_same("the history", people, columns)
    expect_the_same("the state of the room", people, [sorted(person.state_of(room)) for person in people])
    tell(
        f"All three servers have the same {len(columns[0])} messages in the same order, and agree on the room's state."
    )


def meet(alice: Person, bob: Person, carol: Person, version: str | None) -> str:
    """Bring them together in a new room; its ID."""
    room, alias = make_room(alice, version)
    tell(f"Alice makes the room {alias}. It is on her server only, so far.")
    found = bob.call("POST", f"/join/{quote(alias)}", {})["room_id"]
    if found != room:
        raise DemoError(f"Bob's server found {found} under {alias}, which is {room}")
    tell("Bob joins by that name: his server asks hers, and has a copy of the room from then on.")
    alice.call("POST", f"/rooms/{quote(room)}/invite", {"user_id": carol.user_id})
    carol.listen("the invitation", lambda event: _membership(event, room, carol) == "invite")
    tell("Alice invites Carol, to whom her own server brings the invitation. She joins.")
    carol.call("POST", f"/rooms/{quote(room)}/join", {})
    for person in (alice, bob, carol):
        person.listen("Carol in the room", lambda event: _membership(event, room, carol) == "join")
    print()
    return room


def make_room(alice: Person, version: str | None) -> tuple[str, str]:
    """A new room that anybody may join, under the first name that is free; its ID and alias."""
    local_part = "tea"
    for number in count(2):
        wish: Json = {"room_alias_name": local_part, "visibility": "public", "name": "Tea at four"}
        if version is not None:
            wish["room_version"] = version
        try:
            room = alice.call("POST", "/createRoom", wish)["room_id"]
        except Refused as refusal:
            if refusal.errcode != "M_ROOM_IN_USE":
                raise
            local_part = f"tea-{number}"
        else:
            return room, f"#{local_part}:{alice.server.name}"
    raise AssertionError("count() has no end")


def _membership(event: Json, room: str, person: Person) -> object:
    """What an event says of a person's membership of a room, if it does."""
    if (event.get("room_id"), event["type"], event.get("state_key")) != (room, "m.room.member", person.user_id):
        return None
    return event["content"]["membership"]


def expect_the_same(what: str, people: Sequence[Person], seen: Sequence[Sequence[object]]) -> None:
    """See that all have the same.

    :raises DemoError: somebody has something else.
    """
    for person, theirs in zip(people, seen, strict=True):
        if theirs != seen[0]:
            raise DemoError(f"{person.name} and {people[0].name} differ in {what}:\n{theirs}\n{seen[0]}")


def _arguments() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("room_version", nargs="?", help="whose rules the room is to have, such as 12")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main(_arguments().room_version)
    except DemoError as error:
        print(f"\n{error}\nThe logs of the servers may tell why: {data_folder()}/*/server.log", file=sys.stderr)
        sys.exit(1)
