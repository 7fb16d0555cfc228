"""The parent of several processes, whose children here do almost nothing: what becomes of those that end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synapse_like.app.child import FIRST_PAUSE, LONG_LIFE, LONGEST_PAUSE, Child
from tests.support.processes import dying_with_us, free_port, is_alive, wait_until
from tests.support.server import ROOT

Run = Callable[..., "Running"]


class Running:
    """A parent in a process of its own (`parent_program.py`).

    :param does: what its children do, by their numbers; the others serve until they are told to stop.
    """

    def __init__(self, folder: Path, does: dict[int, str], count: int, stop_seconds: float) -> None:
        self.said = folder / "said"
        words = [json.dumps({str(number): what for number, what in does.items()}), str(count), str(stop_seconds)]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.app.parent_program", str(folder), str(free_port()), *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )

    @property
    def text(self) -> str:
        return self.said.read_text()

    def births(self, number: int) -> list[int]:
        """The process IDs that a child had, one after the other."""
        lines = [line.split() for line in self.text.splitlines() if line.startswith("born ")]
        return [int(process) for _, born, process in lines if int(born) == number]

    def wait_for(self, text: str) -> None:
        wait_until(text, lambda: text in self.text)

    def wait_until_it_serves(self) -> None:
        self.wait_for("all processes serve")

    def ends(self) -> int:
        return self.process.wait(timeout=30)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    running: list[Running] = []

    def start(does: dict[int, str] | None = None, count: int = 3, stop_seconds: float = 30) -> Running:
        running.append(Running(tmp_path, does or {}, count, stop_seconds))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


def test_first_starts_alone_and_what_all_say_is_said_once(run: Run) -> None:
    running = run()
    running.wait_until_it_serves()
    lines = running.text.splitlines()
    assert lines.count("it listens") == 1
    born = [line.split()[1] for line in lines if line.startswith("born ")]
    assert born[0] == "1"
    assert sorted(born) == ["1", "2", "3"]
    assert lines.index("ready 1") < min(lines.index(line) for line in lines if line.startswith(("born 2", "born 3")))


@pytest.mark.parametrize(("count", "is_told"), [(1, False), (2, True)])
def test_operator_is_told_of_more_processes_than_processors(run: Run, count: int, is_told: bool) -> None:
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        running = run(count=count)
    finally:
        os.sched_setaffinity(0, processors)
    running.wait_until_it_serves()
    running.process.terminate()
    assert running.ends() == 0
    assert ("more processes than processors" in running.text) == is_told


def test_one_that_dies_is_started_again_and_the_others_stay(run: Run) -> None:
    running = run()
    running.wait_until_it_serves()
    [first], [second], [third] = (running.births(number) for number in (1, 2, 3))
    os.kill(second, signal.SIGKILL)
    wait_until("another second", lambda: len(running.births(2)) == 2)
    assert "a process has ended and is started again" in running.text
    running.process.terminate()
    assert running.ends() == 0
    assert running.births(1) == [first]
    assert running.births(3) == [third]
    assert not any(is_alive(process) for process in (first, third, running.births(2)[1]))


def test_if_one_cannot_start_nothing_does_and_its_sentence_is_told(run: Run) -> None:
    running = run({2: "fail"})
    assert running.ends() == 1
    assert running.text.splitlines()[-1] == "Error: there is no key"
    assert not any(is_alive(process) for number in (1, 2, 3) for process in running.births(number))


def test_one_that_cannot_start_again_is_tried_again_and_the_others_stay(run: Run) -> None:
    running = run({2: "fail later"})
    running.wait_until_it_serves()
    os.kill(running.births(2)[0], signal.SIGKILL)
    wait_until("some attempts", lambda: len(running.births(2)) >= 4)
    assert running.text.count('reason="the key is gone"') >= 2
    assert is_alive(running.births(1)[0])
    running.process.terminate()
    assert running.ends() == 0


def test_if_one_breaks_down_while_the_server_starts_nothing_does(run: Run) -> None:
    running = run({1: "break"})
    assert running.ends() == 1
    assert "RuntimeError: a fault of the program" in running.text
    assert running.text.splitlines()[-1] == "Error: a process ended before it served, by exit code 1"
    assert running.births(2) == []


def test_all_are_told_to_stop_at_the_same_time_and_who_does_not_is_killed(run: Run) -> None:
    running = run({1: "stay", 3: "stay"}, stop_seconds=1)
    running.wait_until_it_serves()
    processes = [running.births(number)[0] for number in (1, 2, 3)]
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 1
    assert running.text.count("a process did not stop in time and is killed") == 2
    assert not any(is_alive(process) for process in processes)


def test_hangup_is_passed_on(run: Run) -> None:
    running = run()
    running.wait_until_it_serves()
    running.process.send_signal(signal.SIGHUP)
    for number in (1, 2, 3):
        running.wait_for(f"hangup {number}")
    # Whoever comes later begins with what was read then.
    os.kill(running.births(2)[0], signal.SIGKILL)
    running.wait_for("newer 2")


def test_when_the_parent_is_killed_its_children_hear_of_it(run: Run) -> None:
    running = run()
    running.wait_until_it_serves()
    processes = [running.births(number)[0] for number in (1, 2, 3)]
    running.process.kill()
    for number in (1, 2, 3):
        running.wait_for(f"orphan {number}")
    wait_until("their end", lambda: not any(is_alive(process) for process in processes))


def test_a_port_that_is_taken_is_named(run: Run, tmp_path: Path) -> None:
    running = run()
    running.wait_until_it_serves()
    words = running.process.args
    assert isinstance(words, list)
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    port = words[4]
    assert second.stderr == f"Error: cannot listen on 127.0.0.1 port {port}: [Errno 98] Address already in use\n"


def test_pauses_grow_while_none_lives_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    child = Child(1, None)
    pauses = []
    for _ in range(12):
        report, write = os.pipe()
        child.born(1, report)
        os.close(write)
        child.died()
        pauses.append(child.wait())
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert child.due == now + LONGEST_PAUSE
    report, write = os.pipe()
    child.born(1, report)
    os.close(write)
    now += LONG_LIFE + 1
    child.died()
    assert child.wait() == FIRST_PAUSE


def test_one_that_hangs_is_killed_and_started_again(run: Run) -> None:
    """It had shown that it serves, and then no more; the others go on."""
    running = run({2: "hang"})
    wait_until("another", lambda: len(running.births(2)) == 2)
    assert running.text.count("a process hangs and is killed") == 1
    assert not is_alive(running.births(2)[0])
    assert [len(running.births(number)) for number in (1, 3)] == [1, 1]
    running.process.terminate()
    assert running.ends() == 0


def test_only_who_has_shown_that_they_serve_can_be_silent() -> None:
    child = Child(1, None)
    silences = []
    for has_beaten in (False, False, True, False, False, True):
        if has_beaten:
            child.beat()
        child.look(5)
        silences.append(child.silent)
    assert silences == [0, 0, 0, 5, 10, 0]


def test_one_that_shows_that_it_serves_before_its_parent_goes_on_is_seen() -> None:
    """On a busy machine a child may have begun to serve, and to hang, when its parent comes back from its birth."""
    there, here = os.pipe()
    child = Child(1, None)
    child.prepare()
    child.beat()
    child.born(os.getpid(), there)
    child.look(5)
    child.look(5)
    assert child.silent == 5
    child.hang_up()
    os.close(here)


def test_a_child_that_comes_to_serve_when_its_parent_is_gone_says_so_to_nobody() -> None:
    """It hears of that by another way, and stops in good order."""
    there, here = os.pipe()
    os.close(there)
    child = Child(1, None)
    child.be(here, -1)
    child.serves()
    assert child.report is None
