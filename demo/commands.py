"""The command line of the scripts beside this file: start, stop and clean.

It uses nothing but the standard library where it stops and removes, so that any Python can do that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from urllib.parse import quote

import room
from people import NAMES, PASSWORD
from servers import (
    HERE,
    DemoError,
    Server,
    choose,
    clean,
    find_servers,
    see_that_nobody_wants_other_ports,
    shown,
    start,
    stop,
)

NO_OPEN = "--no-open"


def main(words: Sequence[str]) -> int:
    """Do what a script asks for; the exit code."""
    command, *numbers = words
    try:
        servers = find_servers()
        if command == "start":
            may_open = NO_OPEN not in numbers
            chosen = choose(servers, [word for word in numbers if word != NO_OPEN])
            see_that_nobody_wants_other_ports(servers)
            start_and_tell(servers, chosen, may_open=may_open and all(server.pid() is None for server in servers))
        elif command == "stop":
            stop(choose(servers, numbers))
        else:
            clean(servers)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def start_and_tell(servers: Sequence[Server], chosen: Sequence[Server], *, may_open: bool) -> None:
    """Start servers, make the room if it is time, and say what there is to try.

    :param servers: all of them.
    :param chosen: those to be started.
    :param may_open: whether a browser may be opened.
    """
    start(chosen)
    if not room.is_ready():
        if any(server.pid() is None for server in servers):
            print(f"Once all servers run, {shown(HERE / 'start.sh')} makes a room with three people in it.")
            return
        room.prepare(servers)
        print("Alice, Bob and Carol have met in a room")
    tell_what_to_try(servers)
    if may_open and open_browser(f"{servers[0].url}/#{quote(room.room_id(), safe='')}"):
        print("A browser opens Alice's page for you.")


def tell_what_to_try(servers: Sequence[Server]) -> None:
    """Print who is where, and what can be done with them."""
    print()
    print("Three people, one on each server, share a room. Their pages:")
    print()
    for name, server in zip(NAMES, servers, strict=True):
        print(f"  {server.url}/    user {name:<6} password {PASSWORD}    (server {server.number}, {server.name})")
    print()
    print("Open two of them side by side, log in, go into the Kitchen, and write. Then:")
    print()
    pid_file = shown(servers[1].pid_file)
    for line, what in (
        (f"{shown(HERE)}/stop.sh 2", "stops Bob's server; write on meanwhile"),
        (f"{shown(HERE)}/start.sh 2", "starts it again, and it catches up"),
        (f"kill -9 $(cat {pid_file})", "the same, without a warning"),
        (f"{shown(HERE)}/conversation.py", "three programs talk, and check what everybody has heard"),
        (f"{shown(HERE)}/README.md", "says what else there is to look at"),
        (f"{shown(HERE)}/stop.sh", "stops everything; clean.sh removes it, too"),
    ):
        print(f"  {line:<40} {what}")
    print()


def open_browser(url: str) -> bool:
    """Open a page in the browser of the desktop, if somebody sits at one; whether that was tried."""
    has_desktop = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    program = shutil.which("xdg-open")
    if program is None or not has_desktop or os.environ.get("CI") or not sys.stdout.isatty():
        return False
    nowhere = subprocess.DEVNULL
    subprocess.Popen([program, url], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
