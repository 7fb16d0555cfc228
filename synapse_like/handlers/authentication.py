"""Whose request it is: access tokens, given out, recognised and ended.

A token is 32 random bytes; only its hash is stored. A recognised token is remembered for some minutes, which spares the
database a look-up per request. Tokens that were ended are forgotten at once, also those that another process of this
machine has ended, and all of them when a command on the side has changed something (`outside_changes.py`).
"""

from __future__ import annotations

import secrets

from cachetools import TTLCache
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred

from synapse_like.background import Shared
from synapse_like.clock import Clock
from synapse_like.handlers.stored_secrets import stored_form
from synapse_like.protocol.errors import UnknownToken
from synapse_like.storage import accounts
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from synapse_like.storage.news import CommitInDoubt, for_others
from synapse_like.storage.transactions import Transaction

REMEMBERED_SECONDS = 300
MOST_REMEMBERED = 20_000
#: For how long it is waited to hear of tokens that others have ended, in seconds; then every token is looked up anew.
PATIENCE = 2.0


class Requester(Struct, frozen=True):
    """Who makes a request.

    :ivar token_id: the number of the access token used; retransmits are told by it.
    """

    user_id: str
    token_id: int
    is_admin: bool


@for_others
class TokensEnded(Struct, frozen=True):
    """News: access tokens are no longer valid: one, or all of a user."""

    user_id: str
    token_id: int | None

    def covers(self, requester: Requester) -> bool:
        """Whether the requester's token is among them."""
        return requester.user_id == self.user_id and self.token_id in (None, requester.token_id)


class Authentication:
    """Gives out, recognises and ends access tokens."""

    def __init__(self, database: Database, bus: Bus, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: TTLCache[bytes, Requester] = TTLCache(MOST_REMEMBERED, REMEMBERED_SECONDS, timer=clock.monotonic)
        self._ended = 0
        self._looking_up: Shared[tuple[bytes, int], Requester] = Shared()
        bus.subscribe(TokensEnded, self._forget)
        bus.subscribe(CommitInDoubt, lambda _: self.forget_all())

    async def authenticate(self, token: str) -> Requester:
        """Whose access token it is.

        :raises UnknownToken: nobody's.
        """
        missing = self._database.missing()
        if missing is not None:
            await self._hear(missing)
        token_hash = stored_form(token)
        known = self._known.get(token_hash)
        if known is not None:
            return known
        # Together with those that came just before, so that what a client asks on one line is done in its order.
        ended = self._ended
        return await self._looking_up.do((token_hash, ended), lambda: self._look_up(token_hash, ended))

    async def _look_up(self, token_hash: bytes, ended: int) -> Requester:
        owner = await self._database.read("authenticate", accounts.token_owner, token_hash)
        if owner is None:
            raise UnknownToken("This access token is not valid (any more). Please log in again.")
        requester = Requester(owner.user_id, owner.token_id, owner.is_admin)
        if ended == self._ended:
            # Otherwise this token may be among those that were ended while it was looked up.
            self._known[token_hash] = requester
        return requester

    async def _hear(self, missing: Deferred[None]) -> None:
        """Wait until it is known here which tokens other processes have ended."""
        timer = self._clock.call_later(PATIENCE, missing.cancel)
        try:
            await missing
        except CancelledError:
            if timer.active():
                raise
            self._database.do_without()
            self.forget_all()
        finally:
            if timer.active():
                timer.cancel()

    def issue(self, txn: Transaction, user_id: str) -> str:
        """Give a user a new access token."""
        token = secrets.token_urlsafe(32)
        accounts.add_token(txn, user_id, stored_form(token), now_ms=self._clock.now_ms())
        return token

    async def log_out(self, requester: Requester) -> None:
        """End the requester's token (LOGIN-10)."""
        await self._database.write("log-out", self._end, requester.user_id, requester.token_id)

    async def log_out_everywhere(self, requester: Requester) -> None:
        """End all tokens of the requester's user (LOGIN-10)."""
        await self._database.write("log-out-everywhere", self.end_all, requester.user_id)

    def _end(self, txn: Transaction, user_id: str, token_id: int) -> None:
        accounts.delete_token(txn, token_id)
        txn.announce_at_once(TokensEnded(user_id, token_id))

    def end_all(self, txn: Transaction, user_id: str, but: int | None = None) -> None:
        """End all tokens of a user.

        :param but: the number of one that is spared.
        """
        if but is None:
            accounts.delete_tokens(txn, user_id)
            txn.announce_at_once(TokensEnded(user_id, None))
            return
        for token_id in accounts.tokens_of(txn, user_id):
            if token_id != but:
                self._end(txn, user_id, token_id)

    def forget_all(self) -> None:
        """Recognise every token anew: some may have ended, and nobody was told."""
        self._ended += 1
        self._known.clear()

    def _forget(self, news: TokensEnded) -> None:
        self._ended += 1
        for token_hash, requester in list(self._known.items()):
            if news.covers(requester):
                self._known.pop(token_hash, None)
