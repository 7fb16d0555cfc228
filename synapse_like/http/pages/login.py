"""Pages that do a whole registration or login, for clients that do not know a stage (LOGIN-9).

What is shown is one stage of those that may come next (`Screen`); a form goes to the engine like a client's submission
(`_submit`), and what has come of it is the next page (`show_outcome`). A refusal is the same form again, with the fault
beside its field. Between two forms the session stands in the page, and is good only with the browser's cookie.

At the end the client that shows the page is handed the credentials by a script (`hand_over.js`), in the way of 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.login import Begun, Credentials, Linked, Login, NextStage, Outcome, Session
from synapse_like.handlers.login_by_identity import IdentityStage
from synapse_like.handlers.login_by_oauth2 import OAUTH2
from synapse_like.handlers.login_stages import LOGIN, REGISTER
from synapse_like.http.client.accounts import BEGINNINGS, STEPS, outcome_body
from synapse_like.http.client.v1 import PREFIX as API_PREFIX
from synapse_like.http.pages.browsers import Browser, Browsers
from synapse_like.http.pages.mail_links import PREFIX
from synapse_like.http.pages.rendering import MOST_FORM_BYTES, as_page, page, refusal_page
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.protocol.errors import BadJson, Forbidden, LoginEmailUrlNotYet, MatrixError, UserInUse

PASSWORD, TOKEN = "m.login.password", "m.login.registration_token"
CODE, URL, IDENTITY = "m.login.email.code", "m.login.email.url", "m.login.email.identity"

_CLOSED = "Registration is closed on this server."


class StageForm(Struct, frozen=True):
    """How a stage is asked for.

    :ivar title: what the stage is called where several can be chosen, and where it comes later.
    :ivar asks: the fields of its form, by purpose. Those with `?` may be left empty.
    :ivar then: the fields of the second form of a stage that takes two.
    """

    title: str
    asks: Mapping[str, Sequence[str]]
    then: Sequence[str] = ()

    def fields(self, purpose: str, *, is_begun: bool) -> Sequence[str]:
        """The fields of the form that is due."""
        return self.then if is_begun else self.asks.get(purpose, ())


STAGE_FORMS = {
    PASSWORD: StageForm("Password", {LOGIN: ("user", "password"), REGISTER: ("user", "password", "repeated")}),
    TOKEN: StageForm("Registration token", {REGISTER: ("token",)}),
    CODE: StageForm("Code by e-mail", {LOGIN: ("user", "email"), REGISTER: ("user", "email")}, ("code",)),
    URL: StageForm("Link by e-mail", {LOGIN: ("user", "email"), REGISTER: ("user", "email")}),
    IDENTITY: StageForm(
        "Identity server",
        {LOGIN: ("email", "idServer"), REGISTER: ("user?", "email", "idServer")},
        ("code?",),
    ),
    OAUTH2: StageForm("Account at a provider", {REGISTER: ("user?",)}),
}

#: Which words in a refusal tell which field it is about.
_FIELD_OF_WORD = {"user": "user", "mail": "email", "password": "password", "token": "token", "code": "code"}
#: Which field is meant where a stage refuses and does not say.
_FIELD_OF_STAGE = {PASSWORD: "password", TOKEN: "token"}


class Fault(Struct, frozen=True):
    """What is wrong with what was submitted.

    :ivar field: the field that it is about; None if about no one.
    """

    message: str
    field: str | None = None
    status: int = 400


class Screen(Struct, frozen=True):
    """What a page of a login shows.

    :ivar session, user_id: if there are any yet.
    :ivar options: the stages that may come next.
    :ivar shown: the one whose form is shown.
    :ivar is_begun: whether it is its second form.
    :ivar position: which stage it is, of how many; None if that depends.
    :ivar given: what the fields hold.
    :ivar hidden: what else the form sends back.
    """

    purpose: str
    session: str | None
    user_id: str | None
    options: Sequence[str]
    shown: str
    is_begun: bool = False
    position: tuple[int, int] | None = None
    later: Sequence[str] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    fault: Fault | None = None
    note: str | None = None


class LoginPages:
    """The pages.

    :param identity: what asks identity servers.
    :param providers: the names of the providers of OAuth 2 by their IDs.
    :param base_url: the address by which clients reach the server.
    :param limit: counts a request of a class for a key, or raises LimitExceeded.
    """

    def __init__(
        self,
        login: Login,
        identity: IdentityStage,
        providers: Mapping[str, str],
        server_name: str,
        base_url: str,
        browsers: Browsers,
        limit: Callable[[str, str], None],
    ) -> None:
        self._login = login
        self._identity = identity
        self._providers = providers
        self._server_name = server_name
        self._base_url = base_url
        self._browsers = browsers
        self._limit = limit
        self._titles = {stage: form.title for stage, form in STAGE_FORMS.items()}
        if providers:
            self._titles[OAUTH2] = f"Account at {' or '.join(providers.values())}"

    # What is asked for.

    async def show_login(self, call: Call[Requester]) -> Response:
        """The first page of a login."""
        return self._first(LOGIN, self._browsers.of(call))

    async def show_register(self, call: Call[Requester]) -> Response:
        """The first page of a registration."""
        return self._first(REGISTER, self._browsers.of(call))

    async def login(self, call: Call[Requester]) -> Response:
        """A form of a login."""
        return await self._take(LOGIN, call)

    async def register(self, call: Call[Requester]) -> Response:
        """A form of a registration."""
        return await self._take(REGISTER, call)

    async def look_whether_confirmed(self, call: Call[Requester]) -> object:
        """Whether the link was confirmed for which a page waits."""
        fields = call.body
        self._browsers.of(call).check_form(fields.get("form"))
        purpose = fields.get("purpose", "")
        session = await self._login.find_session(purpose, fields.get("session", ""))
        return {"is_confirmed": bool(session.state.get("is_confirmed"))}

    # Forms.

    def _first(self, purpose: str, browser: Browser, shown: str | None = None) -> Response:
        return self._show(self._screen(purpose, None, None, shown), browser)

    async def _take(self, purpose: str, call: Call[Requester]) -> Response:
        browser = self._browsers.of(call)
        fields = call.body
        try:
            browser.check_form(fields.get("form"))
            session_id = fields.get("session") or None
            session = None if session_id is None else await self._login.find_session(purpose, session_id)
        except Forbidden as error:
            return refusal_page(error, again=fallback_path(purpose))
        wanted = fields.get("show") or fields.get("type", "")
        screen = self._screen(purpose, session_id, session, wanted)
        if "show" in fields or screen.shown != wanted:
            return self._show(screen, browser)
        screen = self._with_given(screen, fields)
        try:
            self._limit(BEGINNINGS[purpose] if session is None else STEPS, call.client_address)
            return await self._submit(screen, fields, browser)
        except LoginEmailUrlNotYet as error:
            return self._show(replace(screen, note=error.message), browser)
        except MatrixError as error:
            return await self._show_fault(screen, error, browser)

    async def _submit(self, screen: Screen, fields: Mapping[str, str], browser: Browser) -> Response:
        """Hand a form to the engine, or first to an identity server."""
        body: dict[str, Any] = {"type": screen.shown}
        if screen.session is not None:
            body["session"] = screen.session
        # Once more what was asked for, to the same address.
        body |= {"email": screen.given["email"]} if "again" in fields and screen.is_begun else _filled_in(screen)
        if screen.shown == OAUTH2:
            body |= {"browser": browser.binding, "provider": fields.get("provider", "")}
        if screen.shown == IDENTITY:
            if not screen.is_begun:
                credentials = await self._identity.send_mail(body["idServer"], body["email"])
                return self._show(_waiting_for_code(screen, credentials), browser)
            if body.get("code"):
                await self._identity.confirm(screen.hidden, body["code"])
            body["threepidCreds"] = [{key: screen.hidden[key] for key in ("idServer", "sid", "clientSecret")}]
            if screen.hidden.get("user"):
                body["user"] = screen.hidden["user"]
        outcome = await self._login.submit(screen.purpose, body)
        return await self.show_outcome(screen.purpose, outcome, browser)

    async def show_outcome(self, purpose: str, outcome: Outcome, browser: Browser) -> Response:
        """The page that follows on a submission."""
        if isinstance(outcome, Credentials):
            credentials = outcome_body(outcome, self._server_name)
            return page(
                "logged_in.html",
                headers=browser.headers,
                # Clients of 2014 have their own scripts load addresses of the form js:…, which they intercept.
                may={"frame-src": "js:"},
                scripts=["hand_over.js"],
                server_name=self._server_name,
                purpose=purpose,
                credentials=credentials,
                base_url=self._base_url,
            )
        if isinstance(outcome, Linked):
            return page("linked.html", headers=browser.headers, user_id=outcome.user_id)
        if isinstance(outcome, Begun) and "uri" in outcome.answer:
            return going_to(outcome.answer["uri"], browser)
        session_id = outcome.session
        session = None if session_id is None else await self._login.find_session(purpose, session_id)
        shown = outcome.next if isinstance(outcome, NextStage) else None
        return self._show(self._screen(purpose, session_id, session, shown), browser)

    # What is shown.

    def _screen(
        self, purpose: str, session_id: str | None, session: Session | None, shown: str | None = None
    ) -> Screen:
        """What is to be shown of a session.

        :param shown: the stage whose form is wanted; if it is not its turn, the first whose is.
        :raises Forbidden: there is nothing to come.
        """
        flows = self._login.flows(purpose)
        if not flows:
            raise Forbidden(_CLOSED)
        done = session.completed if session is not None else ()
        following = [flow for flow in flows if tuple(flow[: len(done)]) == done and len(flow) > len(done)]
        options = list(dict.fromkeys(flow[len(done)] for flow in following))
        stage = session.stage if session is not None else None
        if stage in options:
            shown = stage
        elif shown not in options:
            shown = next(iter(sorted(options, key=lambda option: option != PASSWORD)), "")
        following = [flow for flow in following if flow[len(done)] == shown]
        position = (len(done) + 1, len(following[0])) if len({len(flow) for flow in following}) == 1 else None
        is_begun = stage == shown and shown in (CODE, URL)
        state = session.state if session is not None else {}
        return Screen(
            purpose,
            session_id,
            session.user_id if session is not None else None,
            options,
            shown,
            is_begun=is_begun,
            position=position if position is not None and position[1] > 1 else None,
            later=following[0][len(done) + 1 :] if position is not None else (),
            given={"email": str(state["address"])} if is_begun else {},
        )

    def _with_given(self, screen: Screen, fields: Mapping[str, str]) -> Screen:
        """The same with what was typed in."""
        if screen.shown == IDENTITY and fields.get("sid"):
            credentials = {key: fields.get(key, "") for key in ("idServer", "sid", "clientSecret", "email", "user")}
            screen = _waiting_for_code(screen, credentials)
        names = _field_names(screen)
        return replace(screen, given={**screen.given, **{name: fields.get(name, "") for name in names}})

    async def _show_fault(self, screen: Screen, error: MatrixError, browser: Browser) -> Response:
        if screen.session is not None:
            try:
                await self._login.find_session(screen.purpose, screen.session)
            except Forbidden as gone:
                # There were too many tries, for instance.
                return refusal_page(gone, again=fallback_path(screen.purpose))
        return self._show(replace(screen, fault=_fault(screen, error)), browser)

    def _show(self, screen: Screen, browser: Browser) -> Response:
        is_waiting = screen.shown == URL and screen.is_begun
        return page(
            "login.html",
            status=screen.fault.status if screen.fault is not None else 200,
            headers=browser.headers,
            may={"connect-src": "'self'"} if is_waiting else {},
            scripts=["wait.js"] if is_waiting else [],
            screen=screen,
            titles=self._titles,
            action=fallback_path(screen.purpose),
            look=f"{PREFIX}/waiting",
            form_token=browser.form_token,
            server_name=self._server_name,
            providers=self._providers,
            id_servers=self._identity.servers,
        )


def fallback_path(purpose: str) -> str:
    """Where a login or registration begins by pages."""
    return f"{API_PREFIX}/{purpose}/fallback"


def going_to(uri: str, browser: Browser) -> Response:
    """A page that leads to a provider at once.

    Not a redirect: a page's policy on where its forms may lead counts for redirects, too.
    """
    return page("going_there.html", headers=browser.headers, uri=uri)


def _field_names(screen: Screen) -> list[str]:
    return [name.rstrip("?") for name in STAGE_FORMS[screen.shown].fields(screen.purpose, is_begun=screen.is_begun)]


def _filled_in(screen: Screen) -> dict[str, str]:
    """The fields that the engine is to know.

    :raises _FieldFault: one is empty that must not be, or the two passwords differ.
    """
    found = {}
    for name in STAGE_FORMS[screen.shown].fields(screen.purpose, is_begun=screen.is_begun):
        key = name.rstrip("?")
        if key == "user" and screen.user_id is not None:
            continue
        value = screen.given.get(key, "")
        value = value if key in ("password", "repeated") else value.strip()
        if value:
            found[key] = value
        elif not name.endswith("?"):
            raise _FieldFault("Please fill in this field.", key)
    if found.get("repeated", found.get("password")) != found.get("password"):
        raise _FieldFault("The two passwords are not the same.", "repeated")
    return found


class _FieldFault(BadJson):
    """A fault of which it is known what field it is about."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.field = name


def _fault(screen: Screen, error: MatrixError) -> Fault:
    """Where on the form a refusal is shown."""
    names = [name for name in _field_names(screen) if name != "user" or screen.user_id is None]
    meant = None
    if isinstance(error, _FieldFault):
        meant = error.field
    elif isinstance(error, UserInUse):
        meant = "user"
    elif isinstance(error, Forbidden) and screen.shown in _FIELD_OF_STAGE:
        meant = _FIELD_OF_STAGE[screen.shown]
    elif isinstance(error, (BadJson, Forbidden)):
        words = error.message.lower()
        meant = next((name for word, name in _FIELD_OF_WORD.items() if word in words and name in names), None)
    return Fault(error.message, meant if meant in names else None, error.status)


def _waiting_for_code(screen: Screen, credentials: Mapping[str, str]) -> Screen:
    """The second form for an address that an identity server confirms."""
    kept = {key: screen.given[key] for key in ("email", "user") if screen.given.get(key)}
    return replace(screen, is_begun=True, hidden={**kept, **credentials}, given={})


def mount_login_pages(pages: LoginPages) -> list[Mount[Requester]]:
    """The routes of all of them. Submissions are counted where a refusal can be a page."""

    def post(path: str, endpoint: Any) -> Route[Requester]:
        return Route("POST", path, endpoint, auth=Auth.NONE, rate="read", body=Body.FORM, max_body=MOST_FORM_BYTES)

    fallback = [
        Route("GET", "/login/fallback", as_page(pages.show_login), auth=Auth.NONE, rate="read"),
        post("/login/fallback", as_page(pages.login)),
        Route("GET", "/register/fallback", as_page(pages.show_register), auth=Auth.NONE, rate="read"),
        post("/register/fallback", as_page(pages.register)),
    ]
    return [
        Mount(API_PREFIX, fallback, cors=True),
        Mount(PREFIX, [post("/waiting", pages.look_whether_confirmed)]),
    ]
