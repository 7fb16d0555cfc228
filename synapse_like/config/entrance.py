"""How people register and log in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from synapse_like.config.values import Amount, Count, FilePath, ListOf, OneOrMore, Section, Settings, url
from synapse_like.models import Checked, Unfit

PASSWORD_STAGE = "m.login.password"
TOKEN_STAGE = "m.login.registration_token"
MAIL_CODE_STAGE = "m.login.email.code"
MAIL_URL_STAGE = "m.login.email.url"
IDENTITY_STAGE = "m.login.email.identity"
OAUTH2_STAGE = "m.login.oauth2"
#: The stages for which mail is sent.
MAIL_STAGES = (MAIL_CODE_STAGE, MAIL_URL_STAGE)
#: The stages that a login or registration flow can be made of (LOGIN-1, LOGIN-8).
KNOWN_STAGES = (PASSWORD_STAGE, TOKEN_STAGE, *MAIL_STAGES, IDENTITY_STAGE, OAUTH2_STAGE)
#: Those that say whose account it is, or is to be; each flow needs one.
REGISTRATION_NAMING_STAGES = (PASSWORD_STAGE, *MAIL_STAGES, OAUTH2_STAGE)
LOGIN_NAMING_STAGES = (*REGISTRATION_NAMING_STAGES, IDENTITY_STAGE)


def _known_stage(stage: str) -> str:
    if stage not in KNOWN_STAGES:
        raise ValueError(f"must be one of the stages {', '.join(KNOWN_STAGES)}")
    return stage


def _sensible_flow(flow: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(flow)) != len(flow):
        raise ValueError("has a stage twice")
    return flow


def _names_account(flow: tuple[str, ...], stages: Sequence[str]) -> tuple[str, ...]:
    if not set(flow) & set(stages):
        raise ValueError(f"needs a stage that names the account: {', '.join(stages)}")
    return flow


def _registers(flow: tuple[str, ...]) -> tuple[str, ...]:
    return _names_account(flow, REGISTRATION_NAMING_STAGES)


def _logs_in(flow: tuple[str, ...]) -> tuple[str, ...]:
    return _names_account(flow, LOGIN_NAMING_STAGES)


def _all_reachable(flows: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    for shorter, longer in permutations(flows, 2):
        if longer[: len(shorter)] == shorter:
            raise ValueError(f"has the flow {list(longer)}, which is over as soon as {list(shorter)} is")
    return flows


def _provider_url(text: str) -> str:
    parts = urlsplit(url(text))
    if parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("must be a URL with https")
    return text


def _provider_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", text):
        raise ValueError("must be of the characters a-z, 0-9, _ and -")
    return text


Stage = Annotated[str, Checked(_known_stage)]
Flow = Annotated[ListOf[Stage], Checked(_sensible_flow)]
RegistrationFlows = Annotated[OneOrMore[Annotated[Flow, Checked(_registers)]], Checked(_all_reachable)]
LoginFlows = Annotated[OneOrMore[Annotated[Flow, Checked(_logs_in)]], Checked(_all_reachable)]
ProviderUrl = Annotated[str, Checked(_provider_url)]
ProviderId = Annotated[str, Checked(_provider_id)]


class Registration(Section, frozen=True):
    """How people get an account."""

    mode: Literal["open", "token", "closed"] = "closed"
    """`open`: by themselves. `token`: by themselves with one of the tokens below. `closed`: not at all; the
    operator makes the accounts with `synapse_like register-user`."""

    flows: RegistrationFlows = ((PASSWORD_STAGE,),)
    """The ways to register, each a list of stages. With mode `token` each begins with the stage
    m.login.registration_token, whether it is listed here or not."""

    tokens: ListOf[str] = ()
    """Each may be used any number of times. Environment: SYNAPSE_LIKE_REGISTRATION_TOKENS, separated by
    commas."""

    def __post_init__(self) -> None:
        asks_for_token = self.mode == "token" or any(TOKEN_STAGE in flow for flow in self.flows)
        if asks_for_token and not self.tokens:
            raise Unfit("tokens", f"must have at least one token, since registration asks for {TOKEN_STAGE}")
        if not all(self.tokens):
            raise Unfit("tokens", "must not have an empty token")

    def offered_flows(self) -> tuple[tuple[str, ...], ...]:
        """The flows that are announced to clients: none if closed; in mode `token` the token comes first."""
        if self.mode == "closed":
            return ()
        if self.mode == "open":
            return self.flows
        return tuple((TOKEN_STAGE, *(stage for stage in flow if stage != TOKEN_STAGE)) for flow in self.flows)


class Login(Section, frozen=True):
    """How people log in."""

    flows: LoginFlows = ((PASSWORD_STAGE,),)
    """The ways to log in, each a list of stages: m.login.password, m.login.email.code, m.login.email.url,
    m.login.email.identity, m.login.oauth2."""

    session_lifetime: Count = 3600
    """Seconds in which a login or registration of several stages must be finished."""

    def __post_init__(self) -> None:
        if any(TOKEN_STAGE in flow for flow in self.flows):
            raise Unfit("flows", f"must not have the stage {TOKEN_STAGE}, which is for registration")


class OAuth2Provider(Settings, frozen=True, kw_only=True):
    """A provider of OAuth 2 or OpenID Connect."""

    id: ProviderId
    """What it is called in addresses and in the database; it must not change, nor be given to another one."""

    name: str
    """What it is called on pages."""

    issuer: ProviderUrl | None = None
    """Its issuer identifier, from which everything else is found out. It has to be given, or else the endpoints."""

    authorization_endpoint: ProviderUrl | None = None
    """For a provider of which nothing can be found out."""

    token_endpoint: ProviderUrl | None = None
    """The same."""

    userinfo_endpoint: ProviderUrl | None = None
    """Where it tells who somebody is, as JSON."""

    jwks_uri: ProviderUrl | None = None
    """Where the keys are by which its ID tokens, together with `issuer`, are checked."""

    client_id: str
    """What this server is called there."""

    client_secret: str
    """The secret that goes with it."""

    client_authentication: Literal["basic", "post"] = "basic"
    """How the secret is shown: in the header, or in the body."""

    scopes: OneOrMore[str] = ("openid", "profile", "email")
    """What this server wants to know."""

    subject_claim: str = "sub"
    """The claim by which it tells people apart: one that never changes, and is never given to another person."""

    name_claim: str = "preferred_username"
    """The claim that gives the user name."""

    displayname_claim: str = "name"
    """The claim that gives a new account its display name."""

    new_accounts: Literal["never", "by_name"] = "never"
    """Whether somebody who logs in with it, and has no account, gets one of the user name that it gives, also where
    registration is closed."""

    link_accounts: Literal["never", "by_email", "by_name"] = "never"
    """Whether somebody who logs in with it for the first time gets into an account that is there: the one with the
    e-mail address that it has confirmed, or the one of the user name that it gives."""

    def __post_init__(self) -> None:
        if self.authorization_endpoint is None:
            if self.issuer is None:
                raise Unfit("", "must have an issuer, or an authorization_endpoint and a token_endpoint")
            if any((self.token_endpoint, self.userinfo_endpoint, self.jwks_uri)):
                raise Unfit("", "must have an authorization_endpoint, since it has other endpoints")
        elif self.token_endpoint is None:
            raise Unfit("", "must have a token_endpoint, since it has an authorization_endpoint")
        elif self.userinfo_endpoint is None and (self.issuer is None or self.jwks_uri is None):
            raise Unfit("", "must have a userinfo_endpoint, or an issuer and a jwks_uri")


class OAuth2(Section, frozen=True):
    """The providers with which people log in by m.login.oauth2; see docs/operating.md."""

    providers: ListOf[OAuth2Provider] = ()
    """Each with `id`, `name`, `issuer`, `client_id` and `client_secret`, at least."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""

    timeout: Amount = 10.0
    """Seconds that one may take to answer."""

    def __post_init__(self) -> None:
        if len({provider.id for provider in self.providers}) != len(self.providers):
            raise Unfit("providers", "must not have two with the same id")


class PasswordHashing(Section, frozen=True):
    """What one attempt at a password costs (argon2id). Accounts keep working when this is changed."""

    memory_kib: Annotated[int, Meta(ge=64, le=4 * 1024 * 1024)] = 19456
    """Memory, in KiB."""

    iterations: Annotated[int, Meta(ge=1, le=100)] = 2
    """Passes over that memory."""

    parallelism: Annotated[int, Meta(ge=1, le=8)] = 1
    """Threads."""
