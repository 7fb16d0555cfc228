"""How people come in: the stages of registration and login with all that they need, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from synapse_like import __version__
from synapse_like.app.errors import StartError
from synapse_like.app.parts import mail_of
from synapse_like.authorities import AuthoritiesUnusable
from synapse_like.background import Repeating, every
from synapse_like.clock import ReactorClock
from synapse_like.config import Config, OAuth2Provider
from synapse_like.federation.identity_client import IdentityClient
from synapse_like.federation.own_keys import OwnKeys
from synapse_like.federation.policy_client import PolicyClient
from synapse_like.federation.web_client import WebClient
from synapse_like.handlers.accounts import Accounts
from synapse_like.handlers.authentication import Authentication
from synapse_like.handlers.external_identities import ExternalIdentities
from synapse_like.handlers.login import Login
from synapse_like.handlers.login_by_identity import BINDING_SECONDS, IdentityStage
from synapse_like.handlers.login_by_mail import MailCodeStage, MailUrlStage
from synapse_like.handlers.login_by_oauth2 import OAuth2Stage, Provider
from synapse_like.handlers.login_by_password import PasswordStage, RegistrationTokenStage
from synapse_like.handlers.passwords import Passwords
from synapse_like.handlers.policy import Policy
from synapse_like.handlers.postman import Postman
from synapse_like.http.limits import Limiter
from synapse_like.http.pages.oauth2 import CHOOSE_PATH, RETURN_PATH
from synapse_like.storage.database import Database

#: How often what has expired is deleted, in seconds.
EXPIRY_SECONDS = 600


class Entrance(Struct):
    """What lets people in.

    :ivar identity: what asks identity servers for people who cannot do it themselves.
    :ivar tasks: what is to be done every so often.
    """

    login: Login
    accounts: Accounts
    identities: ExternalIdentities
    identity: IdentityStage
    tasks: list[Repeating]


def make_entrance(
    config: Config,
    reactor: Any,
    clock: ReactorClock,
    database: Database,
    authentication: Authentication,
    passwords: Passwords,
    limits: Limiter,
    identity_client: IdentityClient,
    policy: Policy | None,
) -> Entrance:
    """Put it together.

    :raises StartError: a template or a certificate that the settings name cannot be used.
    """
    name = config.server_name
    postman = make_postman(config, reactor, clock, limits)
    stages = [
        PasswordStage(name, database, passwords).row(),
        RegistrationTokenStage(config.registration.tokens).row(),
    ]
    if postman is not None:
        stages += [
            MailCodeStage(name, database, clock, postman).row(),
            MailUrlStage(name, database, clock, postman).row(),
        ]
    identity = IdentityStage(name, database, clock, identity_client, limits.check)
    stages.append(identity.row())
    providers = make_providers(config, reactor, clock)
    if providers:
        choose = f"{config.client.url(name)}{CHOOSE_PATH}/"
        stages.append(OAuth2Stage(name, database, clock, providers, choose).row())
    login = Login(
        database,
        authentication,
        clock,
        stages,
        login_flows=config.login.flows,
        register_flows=config.registration.offered_flows(),
        session_lifetime=config.login.session_lifetime,
        limit=limits.check,
        policy=policy,
    )
    accounts = Accounts(
        name,
        database,
        clock,
        authentication,
        passwords,
        postman,
        limits.check,
        link_lifetime=config.mail.link_lifetime,
    )
    tasks = [
        every(clock, "expire-login-sessions", EXPIRY_SECONDS, login.forget_expired_sessions),
        every(clock, "expire-mail-links", EXPIRY_SECONDS, accounts.forget_expired_links),
    ]
    if config.identity_servers.trusted:
        tasks += [
            every(clock, "tell-identity-servers", BINDING_SECONDS, identity.tell_bindings),
            every(clock, "forget-identity-sessions", EXPIRY_SECONDS, identity.forget_used),
        ]
    identities = ExternalIdentities(database, login, accounts, {provider.id: provider.name for provider in providers})
    return Entrance(login, accounts, identities, identity, tasks)


def make_postman(config: Config, reactor: Any, clock: ReactorClock, limits: Limiter) -> Postman | None:
    """What sends letters; None if the settings name no mail server.

    :raises StartError: a template or a certificate cannot be used.
    """
    if config.mail.host is None:
        return None
    letters, mailer = mail_of(config.mail, config.server_name, reactor, clock)
    return Postman(mailer, letters, clock, limits.check, config.client.url(config.server_name))


def make_providers(config: Config, reactor: Any, clock: ReactorClock) -> list[Provider]:
    """The providers of OAuth 2, in the order of the settings.

    :raises StartError: the certificates of the authorities cannot be used.
    """
    settings = config.oauth2
    if not settings.providers:
        return []
    web = make_web_client(reactor, settings.ca_file, settings.timeout)
    return [_provider(provider, web, clock, config.client.url(config.server_name)) for provider in settings.providers]


def _provider(settings: OAuth2Provider, web: WebClient, clock: ReactorClock, base_url: str) -> Provider:
    # Most servers have none, and start sooner without.
    from synapse_like.federation.oauth2_client import Endpoints, OAuth2Client, Registered

    source: str | Endpoints
    if settings.authorization_endpoint is not None and settings.token_endpoint is not None:
        source = Endpoints(
            settings.issuer,
            settings.authorization_endpoint,
            settings.token_endpoint,
            settings.userinfo_endpoint,
            settings.jwks_uri,
        )
    else:
        source = settings.issuer or ""
    registered = Registered(
        settings.client_id,
        settings.client_secret,
        settings.client_authentication == "post",
        settings.scopes,
        f"{base_url}{RETURN_PATH}/{settings.id}",
    )
    return Provider(
        settings.id,
        settings.name,
        OAuth2Client(web, clock, settings.name, source, registered),
        settings.subject_claim,
        settings.name_claim,
        settings.displayname_claim,
        settings.new_accounts,
        settings.link_accounts,
    )


def make_identity_client(config: Config, reactor: Any, clock: ReactorClock, own_keys: OwnKeys) -> IdentityClient:
    """What asks the identity servers.

    :raises StartError: the certificates of the authorities cannot be used.
    """
    settings = config.identity_servers
    web = make_web_client(reactor, settings.ca_file, settings.timeout)
    return IdentityClient(web, settings.trusted, clock, own_keys.server_name, own_keys.signing)


def make_web_client(reactor: Any, ca_file: Path | None, timeout: float) -> WebClient:
    """What asks servers that the operator has named by their URLs.

    :raises StartError: the certificates of the authorities cannot be used.
    """
    try:
        return WebClient(reactor, ca_file=ca_file, timeout=timeout, user_agent=f"synapse_like/{__version__}")
    except AuthoritiesUnusable as error:
        raise StartError(str(error)) from error


def make_policy(
    config: Config, reactor: Any, clock: ReactorClock, database: Database, own_keys: OwnKeys
) -> Policy | None:
    """What asks the policy servers; None if there are none.

    :raises StartError: the certificates of the authorities cannot be used.
    """
    settings = config.policy
    if not settings.servers:
        return None
    clients = [
        PolicyClient(
            reactor,
            make_web_client(reactor, settings.ca_file, server.timeout),
            server,
            clock,
            own_keys.server_name,
            own_keys.signing,
        )
        for server in settings.servers
    ]
    return Policy(database, clients, own_keys.server_name)
