"""Letters with codes and links: how many, and where their links lead (LOGIN-4, LOGIN-5, LOGIN-10)."""

from __future__ import annotations

from collections.abc import Callable

from synapse_like.mail import Letters, Mailer, Offer

#: The class of rate limits in which letters are counted, for each address and for each user.
MAIL = "mail"


class Postman:
    """Writes letters and has them sent.

    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    :param base_url: what links begin with; they lead to the pages of this server.
    """

    def __init__(self, mailer: Mailer, letters: Letters, limit: Callable[[str, str], None], base_url: str) -> None:
        self._mailer = mailer
        self._limit = limit
        self._base_url = base_url
        self.write = letters.write

    def link(self, page: str, secret: str) -> str:
        """The address of a page that is handed a secret."""
        return f"{self._base_url}/_matrix/client/pages/{page}/{secret}"

    async def offer(self, address: str, user_id: str) -> Offer:
        """Have the mail server agree to a letter.

        For who must not show whether there is one: this is the same for an address that nobody has. The answer to the
        client must not wait for what comes after it.

        :raises LimitExceeded: too many letters for this address or this user.
        :raises MatrixError: the mail server does not agree.
        """
        self._limit(MAIL, address)
        self._limit(MAIL, user_id)
        return await self._mailer.offer(address)

    async def post(self, name: str, address: str, user_id: str, **values: object) -> None:
        """Send a letter, and return when the mail server has it.

        :param name: of `mail.LETTERS`.
        :raises LimitExceeded: too many letters for this address or this user.
        :raises MatrixError: the mail server does not take it.
        """
        letter = self.write(name, address, user_id=user_id, **values)
        await (await self.offer(address, user_id)).deliver(letter)
