"""How many bytes of memory requests and their answers may hold (SEC-1).

What a client has sent and what it has not yet taken of its answers lies in memory, and both are as many bytes as the
client likes: it may send slowly and read never. So they are counted, of all clients together and for each address. What
would be too much is refused with 503, for the client to come again; what is being held goes by itself, since a client
that does not read is cut off (`channel`).
"""

from __future__ import annotations

from synapse_like.protocol.errors import Unavailable

#: How many addresses at least it takes to have all of it.
ADDRESSES = 4


class Budget:
    """Bytes, counted by address.

    :param most: of all together; one address may have a quarter.
    :ivar total: how many are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._share = most // ADDRESSES
        self.total = 0
        self._by_address: dict[str, int] = {}

    def held(self, address: str) -> int:
        """How many an address holds."""
        return self._by_address.get(address, 0)

    def check(self, address: str, size: int = 0, *, own: int = 0) -> None:
        """See that an address may have so many more.

        :param own: how many of those that it holds are of the same request: a request that is alone may be as large as
            its route allows, or it could never be done.
        :raises Unavailable: not now.
        """
        held = self.held(address)
        if self.total + size > self._most and self.total > own:
            raise Unavailable("The server has too much to do at the moment. Please try again.", reason="memory")
        if held + size > self._share and held > own:
            raise Unavailable("You have too many requests under way. Please read their answers first.")

    def hold(self, address: str, size: int) -> None:
        """Count some."""
        self.total += size
        self._by_address[address] = self._by_address.get(address, 0) + size

    def release(self, address: str, size: int) -> None:
        """Give back what `hold` has counted."""
        self.total -= size
        left = self._by_address[address] - size
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]
