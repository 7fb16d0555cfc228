"""What the processes of one machine know of each other's commits, at once: numbers in memory that they share.

**What cannot wait.** A commit that ends access tokens, or makes copies wrong, is to be known wherever a client goes
after it was answered. Who is asked something, and has not come as far as the newest of these commits, reads on first.

**What is known already.** Who wants to know of everything that was committed by now need not ask the database if there
are no processes on other machines, and nobody on this one has made a commit that is not known.
"""

from __future__ import annotations

import mmap
from typing import Self


class Machine:
    """The numbers of the newest commits of the processes of this machine.

    :param urgent: of each process the newest commit that the others must know before they answer anybody.
    :param newest: of each process the newest commit.
    :param place: of the process that this is.
    :param is_alone: whether no process on another machine uses the same database.
    """

    def __init__(self, urgent: memoryview[int], newest: memoryview[int], place: int, *, is_alone: bool) -> None:
        self._urgent = urgent
        self._newest = newest
        self._place = place
        self.is_alone = is_alone

    @classmethod
    def of_several(cls, count: int, *, is_alone: bool = True) -> list[Self]:
        """What some processes share that are forked from now on."""
        urgent, newest = (memoryview(mmap.mmap(-1, 8 * count)).cast("Q") for _ in range(2))
        return [cls(urgent, newest, place, is_alone=is_alone) for place in range(count)]

    def note(self, number: int, *, is_urgent: bool) -> None:
        """This process has made a commit."""
        # Nobody else writes there, and it is written at once or not at all.
        self._newest[self._place] = number
        if is_urgent:
            self._urgent[self._place] = number

    def urgent(self) -> int:
        """The newest commit that all must know before they answer; 0 if there was none yet."""
        return max(self._urgent)

    def newest(self) -> int:
        """The newest commit of all processes of this machine; 0 if there was none yet."""
        return max(self._newest)
