"""Letters with codes and links: how many, and where their links lead (LOGIN-4, LOGIN-5, LOGIN-10)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from synapse_like.background import run_in_background
from synapse_like.clock import Clock

if TYPE_CHECKING:
    from synapse_like.mail import Letters, Mailer, Offer

#: The class of rate limits in which letters are counted, for each address and for each user.
MAIL = "mail"
#: How long after an answer a letter goes out about which the answer does not tell, in ms: at the least, and more.
PAUSE_MS, MORE_MS = 100, 400


class Postman:
    """Writes letters and has them sent.

    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    :param base_url: what links begin with; they lead to the pages of this server.
    """

    def __init__(
        self, mailer: Mailer, letters: Letters, clock: Clock, limit: Callable[[str, str], None], base_url: str
    ) -> None:
        self._mailer = mailer
        self._clock = clock
        self._limit = limit
        self._base_url = base_url
        self.write = letters.write

    def link(self, page: str, secret: str) -> str:
        """The address of a page that is handed a secret."""
        return f"{self._base_url}/_matrix/client/pages/{page}/{secret}"

    async def offer(self, address: str, user_id: str) -> Offer:
        """Have the mail server agree to a letter.

        For who must not show whether there is one: this is the same for an address that nobody has. Then `keep_or_not`.

        :raises LimitExceeded: too many letters for this address or this user.
        :raises MatrixError: the mail server does not agree.
        """
        self._limit(MAIL, address)
        self._limit(MAIL, user_id)
        return await self._mailer.offer(address)

    def keep_or_not(self, offer: Offer, send: Callable[[Offer], Coroutine[Any, Any, None]] | None) -> None:
        """Use an offer, or not, behind the answer to the client.

        What either costs comes some moments later, so that neither this answer nor the next ones take longer for it.

        :param send: delivers a letter; None if there is none.
        """

        def act() -> None:
            if send is None:
                offer.withdraw()
            else:
                run_in_background("mail", send, offer)

        self._clock.call_later((PAUSE_MS + secrets.randbelow(MORE_MS)) / 1000, act)

    async def post(self, name: str, address: str, user_id: str, **values: object) -> None:
        """Send a letter, and return when the mail server has it.

        :param name: of `mail.LETTERS`.
        :raises LimitExceeded: too many letters for this address or this user.
        :raises MatrixError: the mail server does not take it.
        """
        letter = self.write(name, address, user_id=user_id, **values)
        await (await self.offer(address, user_id)).deliver(letter)
