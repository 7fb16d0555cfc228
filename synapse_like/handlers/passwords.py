"""Passwords: hashed with argon2id, on threads of their own, a bounded number at a time (LOGIN-3). If too many wait for
that, no more are taken: each costs tens of milliseconds, and who has waited for long has gone (SEC-1).

Checking a password takes the same work whether the user exists or not, so the time of an answer tells nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from synapse_like.protocol.errors import BadJson, Unavailable

P = ParamSpec("P")
Result = TypeVar("Result")

#: How many wait to be hashed, at the most: some seconds' work.
MOST_WAITING = 100
#: Hashes at the same time; bounds the memory they take.
MOST_AT_ONCE = 2
SHORTEST = 8
LONGEST = 512


def check_strength(password: str) -> None:
    """Refuse passwords that are too short to be one, or too long to be hashed cheaply.

    :raises BadJson: with what is wrong.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadJson(f"A password must have at least {SHORTEST} and at most {LONGEST} characters.")


class Hasher:
    """Argon2id with the configured cost.

    :param memory_kib: memory for one hash, in KiB.
    :param iterations: passes over it.
    :param parallelism: lanes.
    """

    def __init__(self, *, memory_kib: int, iterations: int, parallelism: int) -> None:
        self._argon2 = PasswordHasher(time_cost=iterations, memory_cost=memory_kib, parallelism=parallelism)
        self._nobodys_hash: str | None = None

    def hash(self, password: str) -> str:
        """The hash to store. Blocks for some tens of milliseconds."""
        return self._argon2.hash(password)

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is right; with no hash (no such user) the same work is done for nothing. Blocks."""
        if self._nobodys_hash is None:
            self._nobodys_hash = self._argon2.hash(secrets.token_urlsafe())
        try:
            self._argon2.verify(password_hash or self._nobodys_hash, password)
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None


class Passwords:
    """The same without blocking."""

    def __init__(self, hasher: Hasher, reactor: IReactorFromThreads) -> None:
        self._hasher = hasher
        self._reactor = reactor
        #: To be started and stopped with the server.
        self.threads = ThreadPool(0, MOST_AT_ONCE, "passwords")
        self._under_way = 0

    async def hash(self, password: str) -> str:
        """The hash to store.

        :raises Unavailable: too many others wait.
        """
        return await self._on_thread(self._hasher.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is right; False, after the same time, if there is no hash.

        :raises Unavailable: too many others wait.
        """
        return await self._on_thread(self._hasher.verify, password_hash, password)

    async def _on_thread(self, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        if self._under_way >= MOST_AT_ONCE + MOST_WAITING:
            raise Unavailable("Too many people are logging in at the moment. Please try again soon.")
        self._under_way += 1
        try:
            return await deferToThreadPool(self._reactor, self.threads, work, *args, **kwargs)
        finally:
            self._under_way -= 1
