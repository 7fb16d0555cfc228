"""Where links in mails lead (LOGIN-5, LOGIN-10).

To look at a page changes nothing: programs that look for harm in mails open every link. Only its button does.
"""

from __future__ import annotations

from synapse_like.handlers.accounts import ADDRESS, RESET, Accounts
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.login import Login
from synapse_like.http.pages.rendering import MOST_FORM_BYTES, as_page, page
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.protocol.errors import BadJson

PREFIX = "/_matrix/client/pages"
URL_STAGE = "m.login.email.url"


class MailLinkPages:
    """A page with a button, and what the button does, for each kind of link."""

    def __init__(self, login: Login, accounts: Accounts, server_name: str) -> None:
        self._login = login
        self._accounts = accounts
        self._server_name = server_name

    async def look_at_login(self, call: Call[Requester]) -> Response:
        """Ask whether it was they who want to log in or register."""
        session = await self._login.find_ticket(URL_STAGE, call.params["secret"])
        return page(
            "confirm_login.html", server_name=self._server_name, user_id=session.user_id, purpose=session.purpose
        )

    async def confirm_login(self, call: Call[Requester]) -> Response:
        """It was."""
        await self._login.submit_by_ticket(URL_STAGE, call.params["secret"], {})
        return page("login_confirmed.html", server_name=self._server_name)

    async def look_at_reset(self, call: Call[Requester]) -> Response:
        """Ask for another password."""
        link = await self._accounts.find_link(RESET, call.params["secret"])
        return page("reset_password.html", server_name=self._server_name, user_id=link.user_id, fault=None)

    async def reset(self, call: Call[Requester]) -> Response:
        """Take it; if it will not do, ask again."""
        secret = call.params["secret"]
        link = await self._accounts.find_link(RESET, secret)
        fields = call.body
        password = fields.get("password", "")
        try:
            if password != fields.get("repeated"):
                raise BadJson("The two passwords are not the same.")
            await self._accounts.reset_password(secret, password)
        except BadJson as error:
            return page(
                "reset_password.html",
                status=error.status,
                server_name=self._server_name,
                user_id=link.user_id,
                fault=error.message,
            )
        return page("password_reset.html", server_name=self._server_name, user_id=link.user_id)

    async def look_at_address(self, call: Call[Requester]) -> Response:
        """Ask whether the address is theirs, and the account."""
        link = await self._accounts.find_link(ADDRESS, call.params["secret"])
        return page("confirm_address.html", server_name=self._server_name, user_id=link.user_id, address=link.address)

    async def confirm_address(self, call: Call[Requester]) -> Response:
        """They are."""
        address = await self._accounts.add_by_link(call.params["secret"])
        return page("address_confirmed.html", server_name=self._server_name, address=address)


def mount_mail_links(pages: MailLinkPages) -> Mount[Requester]:
    """The routes of all pages."""
    routes: list[Route[Requester]] = []
    for path, look, act in (
        ("/login/{secret}", pages.look_at_login, pages.confirm_login),
        (f"/{RESET}/{{secret}}", pages.look_at_reset, pages.reset),
        (f"/{ADDRESS}/{{secret}}", pages.look_at_address, pages.confirm_address),
    ):
        routes += [
            Route("GET", path, as_page(look), auth=Auth.NONE, rate="read"),
            Route("POST", path, as_page(act), auth=Auth.NONE, rate="login", body=Body.FORM, max_body=MOST_FORM_BYTES),
        ]
    return Mount(PREFIX, routes)
