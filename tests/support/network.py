"""The lines between home servers, which a test can cut, heal and slow down.

In front of each server's federation port stands a *door*, a TCP proxy in this process, and the server's name has the
door's port: whatever others send to it passes there, still encrypted. All servers share one loopback address, so who
comes to a door is not to be seen from the address; but the kernel knows which process holds the other end of the
connection (/proc/net/tcp and /proc/PID/fd), and so each line from one server to another can be cut by itself. It takes
neither root nor namespaces, and nothing in the servers is changed or pretended.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

CHUNK_BYTES = 64 * 1024
#: Pieces that are on their way on a slow line; more have to wait at its beginning.
MOST_UNDER_WAY = 64

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _Passage:
    """A connection that passes a door."""

    origin: str | None
    target: str
    end: Callable[[], object]


class Network:
    """All lines between some servers; they are named by whatever names the test uses."""

    def __init__(self) -> None:
        self._processes: dict[str, Callable[[], Sequence[int]]] = {}
        self._cut: set[tuple[str | None, str]] = set()
        self._holds_still = False
        self._healed = asyncio.Event()
        self._delays: dict[str, float] = {}
        self._passages: set[_Passage] = set()
        self._passed: dict[tuple[str | None, str], int] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def open_door(self, name: str, port: int, processes: Callable[[], Sequence[int]]) -> int:
        """Put a door in front of a port.

        :param name: of the server that listens there, or will.
        :param processes: gives the IDs of its processes while it runs.
        :returns: the door's port.
        """
        self._processes[name] = processes
        return self._do(self._open_door(name, port))

    def cut(self, lines: Iterable[tuple[str | None, str]], *, silently: bool = False) -> None:
        """Cut lines: what passes there ends at once, and nothing passes any more.

        :param lines: from whom to whom; from None are connections of other processes than the servers'.
        :param silently: connections are accepted, and then nothing happens, as when packets are lost; otherwise they
            are closed at once.
        """

        async def cut() -> None:
            self._cut.update(lines)
            self._holds_still = silently
            for passage in [passage for passage in self._passages if (passage.origin, passage.target) in self._cut]:
                passage.end()

        self._do(cut())

    def heal(self, name: str | None = None) -> None:
        """All lines are good again, and quick.

        :param name: only those from and to this server.
        """

        async def heal() -> None:
            self._cut = {line for line in self._cut if name is not None and name not in line}
            self._delays = {slow: delay for slow, delay in self._delays.items() if name is not None and slow != name}
            self._healed.set()
            self._healed.clear()

        self._do(heal())

    def slow(self, name: str, seconds: float) -> None:
        """Let everything take longer on its way to a server, and as long on the way back."""

        async def slow() -> None:
            self._delays[name] = seconds

        self._do(slow())

    def connections(self, origin: str | None, target: str) -> int:
        """How many connections have passed from one server to another so far."""
        return self._passed.get((origin, target), 0)

    def close(self) -> None:
        """End everything; doing it again does no harm."""
        if self._loop.is_closed():
            return
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the network's own thread.

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open_door(self, name: str, port: int) -> int:
        async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._let_in(name, port, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass  # one side has gone, or the door is closed: both are how lines end
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(enter, "127.0.0.1", 0, limit=CHUNK_BYTES, backlog=1000)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _let_in(self, target: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        origin = self._who_holds(writer.get_extra_info("peername"), writer.get_extra_info("sockname"))
        if (origin, target) in self._cut:
            if self._holds_still:
                await self._healed.wait()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK_BYTES)
        both_ways = asyncio.gather(self._carry(target, reader, inner_writer), self._carry(target, inner_reader, writer))
        passage = _Passage(origin, target, both_ways.cancel)
        self._passages.add(passage)
        self._passed[origin, target] = self.connections(origin, target) + 1
        try:
            await both_ways
        finally:
            self._passages.discard(passage)
            inner_writer.transport.abort()

    async def _carry(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes one way, each piece as late as the line is slow when it comes."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_UNDER_WAY)

        async def take() -> None:
            while True:
                piece = await reader.read(CHUNK_BYTES)
                await under_way.put((self._loop.time() + self._delays.get(target, 0), piece))
                if not piece:
                    return

        async def deliver() -> None:
            while True:
                due, piece = await under_way.get()
                left = due - self._loop.time()
                if left > 0:
                    await asyncio.sleep(left)
                if not piece:
                    writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        both = [asyncio.ensure_future(take()), asyncio.ensure_future(deliver())]
        try:
            await asyncio.gather(*both)
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _who_holds(self, theirs: tuple[str, int], ours: tuple[str, int]) -> str | None:
        """Which server's process holds the other end of a connection that has come to a door."""
        inode = _inode(theirs, ours)
        if inode is None:
            return None
        for name, processes in self._processes.items():
            if any(_holds(pid, inode) for pid in processes()):
                return name
        return None


def _inode(local: tuple[str, int], remote: tuple[str, int]) -> str | None:
    """The socket between two addresses of this machine, by its number; see proc(5), /proc/net/tcp."""
    wanted = [_as_in_proc(local), _as_in_proc(remote)]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == wanted:
            return fields[9]
    return None


def _as_in_proc(address: tuple[str, int]) -> str:
    host, port = address
    return "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + f":{port:04X}"


def _holds(pid: int, inode: str) -> bool:
    """Whether a process, or one that it has started, has a socket open."""
    with suppress(OSError):  # it may end while we look
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(entry.path) == f"socket:[{inode}]":
                    return True
        for task in os.scandir(f"/proc/{pid}/task"):
            children = Path(task.path, "children").read_text().split()
            if any(_holds(int(child), inode) for child in children):
                return True
    return False
