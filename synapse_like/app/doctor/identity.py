"""The checks of an identity server (`synapse_like identity doctor`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unpaddedbase64 import decode_base64

from synapse_like.app.doctor import shared
from synapse_like.app.doctor.checking import Check, make_checks
from synapse_like.app.doctor.findings import Finding, Report
from synapse_like.app.doctor.shared import reason
from synapse_like.app.errors import StartError
from synapse_like.app.identity import engine_of, load_signer, make_agents
from synapse_like.clock import ReactorClock
from synapse_like.federation.agent import Agent
from synapse_like.federation.web_client import WebClient
from synapse_like.identity.asking import object_in
from synapse_like.identity.settings import IdentityConfig, SiblingServer
from synapse_like.identity.text_messages import TextMessages
from synapse_like.identity.v1 import PREFIX
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.third_party_ids import phone_number
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseUnavailable
from synapse_like.storage.identity import destinations
from synapse_like.storage.identity.destinations import SIBLING
from synapse_like.storage.migrations import IDENTITY_SERVER


def diagnose(
    config: IdentityConfig,
    path: Path,
    *,
    ask: Sequence[str] = (),
    mail_to: str | None = None,
    text_to: str | None = None,
) -> Report:
    """Make all checks of an identity server. Runs Twisted's reactor, which cannot be run twice.

    :param path: of the settings.
    :param ask: names of home servers that are asked for the time.
    :param mail_to: who is sent a letter; None to send none.
    :param text_to: the phone number that is sent a text message; None to send none.
    """
    return make_checks(lambda reactor: _checks(config, path, ask, mail_to, text_to, reactor))


def _checks(
    config: IdentityConfig, path: Path, ask: Sequence[str], mail_to: str | None, text_to: str | None, reactor: Any
) -> Iterator[tuple[str, Check]]:
    clock = ReactorClock(reactor)
    yield "settings", shared.check_settings(path, _strange_settings(config))
    yield "signing key", shared.check_key(config.signing_key_file, "synapse_like identity init")
    yield "data directory", shared.check_folder("data directory", config.data_dir, "Make room.")
    yield "database", shared.check_database(lambda: engine_of(config), IDENTITY_SERVER)
    yield "server", shared.check_running(config.http, reactor)
    yield "mail", shared.check_mail(config.mail, config.server_name, reactor, clock, mail_to)
    try:
        _, web = make_agents(config, reactor, clock)
    except StartError as error:
        advice = "See to home_servers.ca_file and outgoing.ca_file."
        yield "certificates", [Finding("certificates", "fault", f"{error}.", advice)]
        return
    yield "clock", shared.check_clock(ask, lambda: _agent(config, reactor, clock))
    yield "public URL", _check_public_url(config, web, clock)
    yield "text messages", _check_text_messages(config, web, text_to)
    yield "siblings", _check_siblings(config, web, clock)


def _strange_settings(config: IdentityConfig) -> Iterator[tuple[str, str]]:
    if config.mail.host is None and config.sms.url is None:
        yield "Nobody can prove that an address is theirs.", "Set mail.host or sms.url."
    if shared.is_public(config.http) and not config.rate_limits.enabled:
        yield "There are no rate limits.", "Set rate_limits.enabled to true."
    if config.http.public_url is not None and not config.http.trusted_proxies:
        yield (
            "There is a public URL and no trusted proxy: all clients seem to have the address of the proxy.",
            "Name the proxy in http.trusted_proxies.",
        )
    if not config.home_servers.verify_certificates:
        yield (
            "Certificates of home servers are not checked: anybody on the way can pass for them.",
            "Set home_servers.verify_certificates to true, and name exceptions in home_servers.unverified_servers.",
        )


def _agent(config: IdentityConfig, reactor: Any, clock: ReactorClock) -> Agent:
    """What asks one home server for the time."""
    agent, _ = make_agents(config, reactor, clock)
    return agent


# Our own address.


async def _check_public_url(config: IdentityConfig, web: WebClient, clock: ReactorClock) -> AsyncIterator[Finding]:
    """Whether we are found where people are told that we are."""
    url = config.http.public_url
    if url is None:
        yield Finding("public URL", "skipped", "There is none in the settings: this machine alone finds the server.")
        return
    try:
        signer = load_signer(config, clock.now_ms())
    except StartError:
        return  # told above
    try:
        told = await _public_key(web, url.rstrip("/"), signer.key_id)
    except MatrixError as error:
        yield Finding("public URL", "fault", f"{url} does not lead here: {reason(error)}.", "See to the proxy and DNS.")
        return
    if told is not None and signer.signs_with(told):
        yield Finding("public URL", "ok", f"{url} leads to this server.")
    else:
        advice = "Restart it if the key was changed; else see to the proxy and DNS."
        yield Finding("public URL", "fault", f"Who answers at {url} has other keys than this server.", advice)


async def _public_key(web: WebClient, url: str, key_id: str) -> str | None:
    """A key of the identity server at a URL, in base64; None if it has no such key.

    :raises MatrixError: there is no identity server.
    """
    answer = await web.request("GET", f"{url}{PREFIX}/pubkey/{quote(key_id, safe='')}")
    told = object_in(answer)
    if answer.status == 404 and told.get("errcode") == "M_NOT_FOUND":
        return None
    key = told.get("public_key")
    if answer.status != 200 or not isinstance(key, str):
        raise MatrixError(502, "M_UNKNOWN", f"it answers with {answer.status}, as no identity server does")
    return key


# Text messages.


async def _check_text_messages(config: IdentityConfig, web: WebClient, number: str | None) -> AsyncIterator[Finding]:
    """Whether the gateway is there, or takes a message to somebody."""
    url = config.sms.url
    if url is None:
        yield Finding("text messages", "skipped", "There is no gateway in the settings.")
        return
    advice = "See to the settings under sms."
    try:
        if number is None:
            # It takes messages by POST: whatever it says to this, it is there, and sends nothing.
            answer = await web.request("GET", url)
            sentence = f"{url} answers, with {answer.status}; whether it takes messages was not tried."
            yield Finding("text messages", "ok", sentence, "Have one sent by --text-to.")
            return
        texts = TextMessages(web, url, config.sms.token, config.sms.sender, config.sms.encoding)
        await texts.send(phone_number(number), f"A message to see whether messages arrive, from {config.server_name}")
    except MatrixError as error:
        yield Finding("text messages", "fault", f"{url}: {reason(error)}.", advice)
    else:
        yield Finding("text messages", "ok", f"{url} has taken a message to {number}.", "See whether it arrives.")


# Siblings.


async def _check_siblings(config: IdentityConfig, web: WebClient, clock: ReactorClock) -> AsyncIterator[Finding]:
    """Whether each of them answers, has the keys that we know of it, has our time, and takes what it is told."""
    if not config.siblings:
        yield Finding("siblings", "skipped", "There are none in the settings.")
    for sibling in config.siblings:
        async for finding in _look_at(sibling, web):
            yield finding
    for finding in _deliveries(config) if config.siblings else ():
        yield finding


async def _look_at(sibling: SiblingServer, web: WebClient) -> AsyncIterator[Finding]:
    """Whether a sibling shows the keys that the settings have of it, and has our time."""
    keys, url, before = sibling.verify_keys(), sibling.url.rstrip("/"), datetime.now(UTC)
    try:
        pinged = await web.request("GET", f"{url}{PREFIX}")
        now = datetime.now(UTC)
        told = {key_id: await _public_key(web, url, key_id) for key_id in keys}
    except MatrixError as error:
        sentence = f"{sibling.name} does not answer at {sibling.url}: {reason(error)}."
        yield Finding("siblings", "fault", sentence, "See to it and its URL.")
        return
    wrong = [key_id for key_id, key in keys.items() if _decoded(told[key_id] or "") != key.encode()]
    if wrong:
        sentence = f"{sibling.name} does not have the key {wrong[0]} that stands in our settings."
        advice = f"Ask there: `synapse_like identity key`; then correct siblings, public_keys of {sibling.name}."
        yield Finding("siblings", "fault", sentence, advice)
    else:
        yield Finding("siblings", "ok", f"{sibling.name} answers, and has the keys that stand in our settings.")
    with suppress(ValueError):
        # Who does not tell the time cannot be asked for it.
        yield shared.compare_clocks(sibling.name, parsedate_to_datetime(pinged.date or ""), before, now)


def _decoded(text: str) -> bytes | None:
    """The bytes of a key in base64 of either alphabet; None if it is none."""
    try:
        return decode_base64(text)
    except ValueError:
        return None


def _deliveries(config: IdentityConfig) -> Iterator[Finding]:
    """The siblings that did not take what they were told the last time: some do not know our key."""
    try:
        connection = Connection(engine_of(config))
    except (StartError, DatabaseUnavailable):
        return  # told above
    try:
        txn = connection.begin(writable=False)
        for sibling in config.siblings:
            known = destinations.find(txn, SIBLING, sibling.name)
            if known.failing_since is not None:
                sentence = f"{sibling.name} does not take what it is told: {(known.last_error or '?').rstrip('.')}."
                advice = "See `synapse_like identity status`; it must have our key among its siblings'."
                yield Finding("siblings", "warning", sentence, advice)
    except connection.engine.database_errors:
        return  # told above
    finally:
        connection.close()
