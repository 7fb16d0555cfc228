"""What can happen to servers, each time to one of them or to all, for a while."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from random import Random

from tests.chaos.world import World, resize_disk
from tests.support.processes import wait_until
from tests.support.server import HomeServer

#: How many of those that are just starting are let be, so that there are some that serve, also on a slow machine.
MERCY = 0.8
#: How often it is told how it goes, in seconds.
TELL_EVERY = 60.0


@dataclass(frozen=True)
class Harm:
    """Something that happens.

    :ivar befall: lets it happen to a server for the length of its context.
    :ivar weight: how often it comes, among the others.
    :ivar longest: how long it lasts at the most, in seconds.
    :ivar is_everywhere: whether it befalls all servers at once.
    """

    befall: Callable[[World, HomeServer], AbstractContextManager[None]]
    weight: int
    longest: float
    is_everywhere: bool = False


@contextmanager
def _killed(world: World, server: HomeServer) -> Iterator[None]:
    """As by `kill -9`, or by a kernel that is out of memory."""
    if server.is_running:
        server.kill9()
    yield
    server.launch()


@contextmanager
def _restarted(world: World, server: HomeServer) -> Iterator[None]:
    """In good order, as by its operator."""
    if server.is_running:
        # It may still be about to start, or about to fail at that.
        assert server.terminate(60) in (0, 1, -signal.SIGTERM), "it was not stopped in good order"
    yield
    server.launch()


@contextmanager
def _stopped(world: World, server: HomeServer) -> Iterator[None]:
    """It stands still, with everything open."""
    still = server.process_ids
    for pid in still:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in still:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _cut_off(world: World, server: HomeServer) -> Iterator[None]:
    """Nobody can connect to it, nor it to anybody."""
    world.federation.cut(server)
    yield
    world.federation.heal(server)


@contextmanager
def _unheard(world: World, server: HomeServer) -> Iterator[None]:
    """What it says vanishes, and what is said to it, too."""
    world.federation.cut(server, silently=True)
    yield
    world.federation.heal(server)


@contextmanager
def _slow(world: World, server: HomeServer) -> Iterator[None]:
    """What is said to it takes its time."""
    world.federation.slow(server, 0.4)
    yield
    world.federation.heal(server)


@contextmanager
def _full(world: World, server: HomeServer) -> Iterator[None]:
    """There is not a byte left on its disk."""
    assert world.disk_bytes is not None

    def fill() -> bool:
        # Made as small as what is on it. That may have grown meanwhile; then it cannot be.
        disk = os.statvfs(server.data_dir)
        return resize_disk(server.data_dir, (disk.f_blocks - disk.f_bfree) * disk.f_frsize)

    wait_until("the disk to be full", fill)
    yield
    assert resize_disk(server.data_dir, world.disk_bytes), "the disk stays full"


@contextmanager
def _without_database(world: World, server: HomeServer) -> Iterator[None]:
    """The database has crashed."""
    assert world.postgresql is not None
    world.postgresql.crash()
    yield
    world.postgresql.start_again()


@contextmanager
def _database_killed(world: World, server: HomeServer) -> Iterator[None]:
    """All of the database's processes are killed, as if its machine were switched off."""
    assert world.postgresql is not None
    world.postgresql.kill9()
    yield
    world.postgresql.start_again()


@contextmanager
def _database_stopped(world: World, server: HomeServer) -> Iterator[None]:
    """The database stands still, with everything open."""
    assert world.postgresql is not None
    with world.postgresql.standing_still():
        yield


@contextmanager
def _one_killed(world: World, server: HomeServer) -> Iterator[None]:
    """One of its processes, as by `kill -9`; its parent is to see to that."""
    _signal_one(world, server, signal.SIGKILL)
    yield


@contextmanager
def _one_stopped(world: World, server: HomeServer) -> Iterator[None]:
    """One of its processes stands still, with everything open, perhaps in the middle of a transaction."""
    still = _signal_one(world, server, signal.SIGSTOP)
    yield
    # It may have been killed, with its server, by nobody but itself.
    with suppress(ProcessLookupError):
        if still is not None:
            os.kill(still, signal.SIGCONT)


def _signal_one(world: World, server: HomeServer, number: signal.Signals) -> int | None:
    """Send one of a server's processes, but not the parent, a signal; to which, if there was one."""
    children = server.process_ids[1:]
    if not children:
        return None
    chosen = world.dice.choice(children)
    try:
        os.kill(chosen, number)
    except ProcessLookupError:
        return None
    return chosen


def harms_of(world: World) -> Mapping[str, Harm]:
    """What can happen there, by its name."""
    harms = {
        "kill -9": Harm(_killed, 6, 1.0),
        "restart": Harm(_restarted, 1, 1.0),
        "SIGSTOP": Harm(_stopped, 2, 5.0),
        "cut line": Harm(_cut_off, 2, 6.0),
        "silent line": Harm(_unheard, 2, 6.0),
        "slow line": Harm(_slow, 2, 8.0),
    }
    if world.disk_bytes is not None:
        harms["full disk"] = Harm(_full, 2, 4.0)
    if world.postgresql is not None:
        harms["database crash"] = Harm(_without_database, 1, 3.0, is_everywhere=True)
        harms["database kill -9"] = Harm(_database_killed, 1, 3.0, is_everywhere=True)
        harms["database SIGSTOP"] = Harm(_database_stopped, 1, 3.0, is_everywhere=True)
    if world.processes > 1:
        harms["kill -9 of one process"] = Harm(_one_killed, 6, 1.0)
        harms["SIGSTOP of one process"] = Harm(_one_stopped, 4, 8.0)
    return harms


@dataclass
class _Lasting:
    """A harm that lasts."""

    ends: float
    victims: list[HomeServer]
    end: ExitStack


def let_loose(
    world: World, seconds: float, dice: Random, *, tell: Callable[[str], None] = lambda _: None
) -> Counter[str]:
    """Let things happen, to several servers at the same time, but never two to one; then make all well again.

    Most of those that are just starting are let be: a server that never comes to serve has nothing to lose.

    A server that ends by itself, as one does that finds its disk full or its database away when it starts, is started
    again, as the system of its operator would do it.

    :param tell: is told now and then how it goes.
    :returns: what has happened, and how often.
    """
    harms = harms_of(world)
    world.dice = dice
    happened: Counter[str] = Counter()
    lasting: list[_Lasting] = []
    deck: list[str] = []
    deadline = time.monotonic() + seconds
    tell_at = time.monotonic()
    try:
        while (now := time.monotonic()) < deadline:
            if now >= tell_at:
                tell_at += TELL_EVERY
                tell(f"{world.acknowledged()} messages acknowledged, {happened.total()} things happened")
            _end(lasting, now)
            befallen = [victim for harm in lasting for victim in harm.victims]
            free = [server for server in world.servers if server not in befallen]
            for server in free:
                if not server.is_running:
                    happened["ended by itself"] += 1
                    server.launch()
            if not deck:
                deck = [name for name, harm in harms.items() for _ in range(harm.weight)]
            # Drawn without putting back, so that in a short while, too, all of them come.
            dice.shuffle(deck)
            name = deck[-1]
            harm = harms[name]
            victim = dice.choice(free) if free and (not harm.is_everywhere or len(free) == len(world.servers)) else None
            if victim is not None and (victim.serves or dice.random() > MERCY):
                end = ExitStack()
                end.enter_context(harm.befall(world, victim))
                victims = world.servers if harm.is_everywhere else [victim]
                lasting.append(_Lasting(now + harm.longest * dice.random(), victims, end))
                happened[name] += 1
                deck.pop()
            time.sleep(dice.uniform(0.2, 1.5))
    finally:
        _end(lasting, float("inf"))
    world.federation.heal()
    for server in world.servers:
        if not server.is_running:
            server.launch()
        server.wait_until_healthy(90)
    return happened


def _end(lasting: list[_Lasting], now: float) -> None:
    """End those whose time has come."""
    for harm in [harm for harm in lasting if harm.ends <= now]:
        lasting.remove(harm)
        harm.end.close()
