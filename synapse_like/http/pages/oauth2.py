"""Where m.login.oauth2 leads people: the choice among providers, and our redirect URIs (LOGIN-7).

A redirect URI answers a client as JSON, and a browser with a page. See `handlers/login_by_oauth2.py` for what is bound
to which browser, and why people may be asked before the end.
"""

from __future__ import annotations

from collections.abc import Mapping

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.login import Begun, Login, Session
from synapse_like.handlers.login_by_oauth2 import CHOOSE, CONFIRM, OAUTH2, RETURN
from synapse_like.http.client.accounts import outcome_body
from synapse_like.http.pages.browsers import Browsers
from synapse_like.http.pages.login import LoginPages, fallback_path, going_to
from synapse_like.http.pages.mail_links import PREFIX
from synapse_like.http.pages.rendering import MOST_FORM_BYTES, as_page, page, refusal_page
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Endpoint, Mount, Route
from synapse_like.protocol.errors import Forbidden, MatrixError

CHOOSE_PATH = f"{PREFIX}/oauth2/choose"
RETURN_PATH = f"{PREFIX}/oauth2/return"

#: What a provider may send people back with, as far as it is of interest.
_ANSWER = ("code", "iss", "error", "error_description")


class OAuth2Pages:
    """The pages.

    :param providers: the names of the providers by their IDs.
    """

    def __init__(
        self, login: Login, pages: LoginPages, providers: Mapping[str, str], server_name: str, browsers: Browsers
    ) -> None:
        self._login = login
        self._pages = pages
        self._providers = providers
        self._server_name = server_name
        self._browsers = browsers

    async def show_choice(self, call: Call[Requester]) -> Response:
        """Ask with which provider."""
        session = await self._waiting_for(CHOOSE, call.params["ticket"])
        browser = self._browsers.of(call)
        return page(
            "choose_provider.html",
            headers=browser.headers,
            server_name=self._server_name,
            purpose=session.purpose,
            providers=self._providers,
            form_token=browser.form_token,
        )

    async def choose(self, call: Call[Requester]) -> Response:
        """With this one. From here on it goes on in this browser only."""
        fields = call.body
        browser = self._browsers.of(call)
        browser.check_form(fields.get("form"))
        body = {"provider": fields.get("provider", ""), "browser": browser.binding}
        outcome = await self._login.submit_by_ticket(OAUTH2, call.params["ticket"], body)
        assert isinstance(outcome, Begun), "to choose a provider is to be sent there"
        return going_to(outcome.answer["uri"], browser)

    async def come_back(self, call: Call[Requester]) -> object:
        """They come from the provider; what comes of it is JSON for a client, and a page for a browser."""
        place = call.header("Sec-Fetch-Dest")
        if place not in (None, "document"):
            # An image, a frame or a script of some page: nobody looks at this.
            raise Forbidden("This address is to be opened as a page.")
        ticket = call.query.text("state") or ""
        if "text/html" not in (call.header("Accept") or ""):
            known = self._browsers.known(call)
            body = {**_answer(call), "browser": None if known is None else known.binding}
            outcome = await self._login.submit_by_ticket(OAUTH2, ticket, body)
            return outcome_body(outcome, self._server_name)
        return await self._come_back_to_page(call, ticket)

    async def _come_back_to_page(self, call: Call[Requester], ticket: str) -> Response:
        again = None
        try:
            session = await self._waiting_for(RETURN, ticket)
            if not session.state["asks"]:
                again = fallback_path(session.purpose)
            browser = self._browsers.of(call)
            body = {**_answer(call), "browser": browser.binding, "can_ask": True}
            outcome = await self._login.submit_by_ticket(OAUTH2, ticket, body)
        except MatrixError as error:
            return refusal_page(error, again=again)
        if isinstance(outcome, Begun):
            return page(
                "confirm_oauth2.html",
                headers=browser.headers,
                server_name=self._server_name,
                purpose=session.purpose,
                action=f"{PREFIX}/oauth2/confirm",
                form_token=browser.form_token,
                **outcome.answer,
            )
        return await self._pages.show_outcome(session.purpose, outcome, browser)

    async def confirm(self, call: Call[Requester]) -> Response:
        """It is they who want into the account."""
        fields = call.body
        browser = self._browsers.of(call)
        browser.check_form(fields.get("form"))
        ticket = fields.get("ticket", "")
        session = await self._waiting_for(CONFIRM, ticket)
        outcome = await self._login.submit_by_ticket(OAUTH2, ticket, {"browser": browser.binding})
        return await self._pages.show_outcome(session.purpose, outcome, browser)

    async def _waiting_for(self, step: str, ticket: str) -> Session:
        """The session that a ticket belongs to.

        :raises Forbidden: there is none, or it is not at this step.
        """
        session = await self._login.find_ticket(OAUTH2, ticket)
        if session.state["step"] != step:
            raise Forbidden("This link was used already, or has expired. Please start again.")
        return session


def _answer(call: Call[Requester]) -> dict[str, object]:
    """What a provider says, and which one it is."""
    said = {key: call.query.text(key) for key in _ANSWER}
    return {"provider": call.params["provider"], **{key: text for key, text in said.items() if text is not None}}


def mount_oauth2(pages: OAuth2Pages) -> Mount[Requester]:
    """The routes of all of them."""

    def get(path: str, endpoint: Endpoint[Requester]) -> Route[Requester]:
        return Route("GET", path, endpoint, auth=Auth.NONE, rate="read")

    def post(path: str, endpoint: Endpoint[Requester]) -> Route[Requester]:
        return Route(
            "POST",
            path,
            endpoint,
            auth=Auth.NONE,
            rate="login_steps",
            body=Body.FORM,
            max_body=MOST_FORM_BYTES,
        )

    choose, come_back = CHOOSE_PATH.removeprefix(PREFIX), RETURN_PATH.removeprefix(PREFIX)
    routes = [
        get(f"{choose}/{{ticket}}", as_page(pages.show_choice)),
        post(f"{choose}/{{ticket}}", as_page(pages.choose)),
        get(f"{come_back}/{{provider}}", pages.come_back),
        post("/oauth2/confirm", as_page(pages.confirm)),
    ]
    return Mount(PREFIX, routes)
