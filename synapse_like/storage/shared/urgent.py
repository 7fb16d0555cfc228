"""What cannot wait.

A commit that ends access tokens, or makes copies wrong, is to be known wherever a client goes after it was answered.
Processes of one machine see the number of the last such commit in memory that they share; who is asked something, and
has not come so far, reads on first.
"""

from __future__ import annotations

import mmap
from typing import Self


class Urgent:
    """The numbers of those commits that others on this machine must know before they answer anybody.

    :param numbers: the last of each process, in memory that they share.
    :param place: of the process that this is.
    """

    def __init__(self, numbers: memoryview[int], place: int) -> None:
        self._numbers = numbers
        self._place = place

    @classmethod
    def of_several(cls, count: int) -> list[Self]:
        """Those of some processes that are forked from now on."""
        numbers = memoryview(mmap.mmap(-1, 8 * count)).cast("Q")
        return [cls(numbers, place) for place in range(count)]

    def note(self, number: int) -> None:
        """This process has made one."""
        # Nobody else writes there, and it is written at once or not at all.
        self._numbers[self._place] = number

    def newest(self) -> int:
        """The last of all of them; 0 if there was none yet."""
        return max(self._numbers)
