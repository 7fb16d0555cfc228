"""Child processes that do not outlive the tests, and places where they can listen."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

#: How many processes of the tests share the ports.
PROCESSES = 8
_given: set[int] = set()
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)


def dying_with_us(last_words: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` by which Linux signals the child when the thread that started it has gone.

    So nothing stays behind, even if the tests themselves are killed. Start such children from the main thread only.
    """

    def ask_for_the_signal() -> None:
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_PDEATHSIG, int(last_words))

    return ask_for_the_signal


def with_children(process_id: int) -> list[int]:
    """A process that runs, and those that it has started: their IDs."""
    try:
        return [process_id, *map(int, Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split())]
    except FileNotFoundError:
        return [process_id]


def is_alive(process_id: int) -> bool:
    """Whether a process has not ended yet."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_port() -> int:
    """A TCP port on loopback on which nobody listens.

    It lies below the ports that the kernel gives to outgoing connections, so that none of those takes it while its
    server restarts. No other process of the tests gives the same one, and neither does this one a second time.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.randint(10_000, 32_000)
        if port % PROCESSES != number % PROCESSES or port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port


def wait_until(what: str, attempt: Callable[[], Found | None], *, seconds: float = 30) -> Found:
    """Try until something comes of it.

    :param what: what is awaited, for the message.
    :param attempt: tried again and again; None (or False) means not yet.
    :raises TimeoutError: nothing came of it in the given seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = attempt()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)
