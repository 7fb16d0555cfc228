"""Checks of what a home server needs beyond this machine: time, names, other servers, mail, calls, identity servers."""

# mypy: allow-untyped-calls
# (Twisted's names are not annotated.)

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hmac import digest
from typing import Any

from cryptography import x509
from signedjson.key import get_verify_key
from signedjson.types import SigningKey

from synapse_like.app.doctor.findings import Finding
from synapse_like.app.doctor.shared import USER_AGENT, check_clock, check_mail, reason
from synapse_like.app.doctor.turn import TurnFault, probe
from synapse_like.app.parts import timeouts
from synapse_like.authorities import AuthoritiesUnusable
from synapse_like.clock import ReactorClock
from synapse_like.config import Config
from synapse_like.federation.addresses import is_public
from synapse_like.federation.agent import Agent
from synapse_like.federation.client import FederationClient
from synapse_like.federation.resolver import ServerResolver, SystemLookup, is_address, split_name
from synapse_like.federation.tls import CertificateUnusable, ClientTls, ServerTls
from synapse_like.federation.web_client import WebClient
from synapse_like.protocol import server_keys
from synapse_like.protocol.errors import MatrixError

#: Days before its end in which a certificate should be renewed.
RENEW_DAYS = 14


class Elsewhere:
    """The checks, and what they need to ask others.

    :param key: our signing key.
    """

    def __init__(self, config: Config, reactor: Any, key: SigningKey) -> None:
        self._config = config
        self._reactor = reactor
        self._clock = ReactorClock(reactor)
        self._key = key
        self._resolver = ServerResolver(SystemLookup(reactor), self._clock)

    def time(self, others: Sequence[str]) -> AsyncIterator[Finding]:
        """Our clock against those of other servers."""
        return check_clock(others, lambda: self._agent(verify=False))

    # Names.

    async def names(self) -> AsyncIterator[Finding]:
        """Where others look for us."""
        name = self._config.server_name
        try:
            places = await self._resolver.places(name)
        except MatrixError as error:
            advice = "Mend the SRV record _matrix._tcp."
            yield Finding("DNS", "fault", f"Others do not find {name}: {reason(error)}.", advice)
            return
        for place in places:
            try:
                found = {
                    str(item[4][0]) for item in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
                }
            except OSError as error:
                yield Finding("DNS", "fault", f"{place.host} has no address: {error}.", "Make an A or AAAA record.")
                continue
            where = f"{name} is at {place.host} port {place.port}, {', '.join(sorted(found))}"
            private = [address for address in found if not is_public(address)]
            if private:
                advice = "Others reach it there only if they allow private addresses."
                yield Finding("DNS", "warning", f"{where}: not an address of the internet.", advice)
            else:
                yield Finding("DNS", "ok", f"{where}.")

    # Certificates.

    def certificate(self) -> Iterator[Finding]:
        """The files of our certificate."""
        config = self._config
        if not config.federation.tls:
            yield Finding("certificate", "skipped", "TLS is a proxy's to do.")
            return
        path = config.tls_certificate
        try:
            ServerTls(path, config.tls_private_key)
            chain = x509.load_pem_x509_certificates(path.read_bytes())
        except (CertificateUnusable, OSError, ValueError) as error:
            yield Finding("certificate", "fault", f"{error}.", "Get one, or run `synapse_like init` again.")
            return
        ours = chain[0]
        yield from self._its_time(ours)
        yield from self._its_names(ours)
        # Where there is an authority of one's own, whether others believe it is seen below.
        if ours.issuer == ours.subject and config.federation.ca_file is None:
            advice = "Get one of an authority that others know, such as Let's Encrypt."
            yield Finding("certificate", "warning", "It is self-signed: other servers will not believe it.", advice)
        elif len(chain) == 1:
            advice = "If others do not believe it, add those between it and the authority's to the file."
            yield Finding("certificate", "ok", f"It is alone in {path}.", advice)

    def _its_time(self, ours: x509.Certificate) -> Iterator[Finding]:
        now, until = datetime.now(UTC), ours.not_valid_after_utc
        if until < now:
            yield Finding("certificate", "fault", f"It ended on {until:%Y-%m-%d}.", "Renew it.")
        elif ours.not_valid_before_utc > now:
            begins = ours.not_valid_before_utc
            yield Finding("certificate", "fault", f"It begins on {begins:%Y-%m-%d}.", "Look at the clock.")
        elif until < now + timedelta(days=RENEW_DAYS):
            yield Finding("certificate", "warning", f"It ends on {until:%Y-%m-%d}.", "Renew it.")
        else:
            yield Finding("certificate", "ok", f"It is good until {until:%Y-%m-%d}.")

    def _its_names(self, ours: x509.Certificate) -> Iterator[Finding]:
        host, _ = split_name(self._config.server_name)
        names: list[str] = []
        with suppress(x509.ExtensionNotFound):
            alternative = ours.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names = alternative.get_values_for_type(x509.DNSName)
            names += [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
        wildcard = "*." + host.partition(".")[2]
        if host in names or (not is_address(host) and wildcard in names):
            yield Finding("certificate", "ok", f"It is one for {host}.")
        else:
            told = ", ".join(names) or "nobody"
            yield Finding("certificate", "fault", f"It is for {told} and not for {host}.", f"Get one for {host}.")

    # Other servers.

    async def as_others_see_us(self) -> AsyncIterator[Finding]:
        """Go to our own name the way another server would, and check what it is shown."""
        name = self._config.server_name
        try:
            answer = await self._keys_of_ours(verify=True)
        except MatrixError as error:
            try:
                answer = await self._keys_of_ours(verify=False)
            except MatrixError as other:
                advice = "See to DNS, the firewall, port forwarding, and whether the server runs."
                yield Finding("federation", "fault", f"{name} cannot be reached from here: {reason(other)}.", advice)
                return
            advice = "Others will refuse to connect; see to the certificate."
            yield Finding("federation", "warning", f"{name} is not believed: {reason(error)}.", advice)
        yield self._whose_keys(answer, "It is reached under its name, and shows its keys, well signed.")

    async def _keys_of_ours(self, *, verify: bool) -> dict[str, Any]:
        agent = self._agent(verify=verify)
        try:
            return await self._client(agent).server_keys(self._config.server_name)
        finally:
            await agent.close()

    def _whose_keys(self, answer: dict[str, Any], praise: str) -> Finding:
        name, key_id = self._config.server_name, f"{self._key.alg}:{self._key.version}"
        try:
            told = server_keys.read(answer, name)
        except MatrixError as error:
            advice = "Another server answers under this name; see to DNS and the proxy."
            return Finding("federation", "fault", f"The keys of {name} are not well signed: {error.message}", advice)
        ours = get_verify_key(self._key)
        if key_id in told.current and told.current[key_id].encode() == ours.encode():
            return Finding("federation", "ok", praise)
        advice = "Restart it if the key was changed; else see to DNS and the proxy."
        return Finding("federation", "fault", f"Who answers as {name} has other keys than this one.", advice)

    async def as_told_by(self, others: list[str]) -> AsyncIterator[Finding]:
        """Have other servers go to us: they are asked for our keys, which they must fetch."""
        name = self._config.server_name
        key_id = f"{self._key.alg}:{self._key.version}"
        if not others:
            yield Finding("from outside", "skipped", "No other server was asked to come.", "Name one by --ask.")
        for other in others:
            federation = self._config.federation
            agent = self._agent(verify=federation.verify_certificates, unverified=federation.unverified_servers)
            try:
                answers = await self._client(agent).query_keys(other, {name: [key_id]})
            except MatrixError as error:
                yield Finding("from outside", "warning", f"{other} does not say: {reason(error)}.", "Ask another one.")
                continue
            finally:
                await agent.close()
            ours = [answer for answer in answers if answer.get("server_name") == name]
            if ours:
                finding = self._whose_keys(ours[0], f"{other} knows our keys.")
                yield Finding("from outside", finding.state, finding.sentence, finding.advice)
            else:
                advice = "See to DNS, the firewall and the certificate."
                yield Finding("from outside", "fault", f"{other} cannot get our keys.", advice)

    def _agent(self, *, verify: bool, unverified: Sequence[str] = ()) -> Agent:
        federation = self._config.federation
        tls = ClientTls(ca_file=federation.ca_file, verify=verify, unverified_servers=unverified)
        return Agent(
            self._reactor,
            self._resolver,
            tls,
            allow_private_addresses=True,
            timeouts=timeouts(self._config),
            user_agent=USER_AGENT,
        )

    def _client(self, agent: Agent) -> FederationClient:
        return FederationClient(agent, self._config.server_name, self._key)

    # Calls.

    def calls(self) -> Iterator[Finding]:
        """Whether the TURN servers relay for us, with credentials as clients are given."""
        voip = self._config.voip
        if not voip.turn_uris or voip.shared_secret is None:
            yield Finding("calls", "skipped", "There is no TURN server in the settings.")
            return
        username = f"{self._clock.now_ms() // 1000 + 60}:@doctor:{self._config.server_name}"
        password = b64encode(digest(voip.shared_secret.encode(), username.encode(), "sha1")).decode()
        for uri in voip.turn_uris:
            try:
                probe(uri, username, password)
            except TurnFault as fault:
                advice = "See to static-auth-secret there and voip.shared_secret here, and to its log."
                yield Finding("calls", "fault", f"{uri}: {fault}.", advice)
            except OSError as error:
                advice = "See to whether it runs, and to the firewall."
                yield Finding("calls", "fault", f"{uri} does not answer: {reason(error)}.", advice)
            else:
                yield Finding("calls", "ok", f"{uri} works with our credentials.")

    def mail(self, recipient: str | None) -> AsyncIterator[Finding]:
        """Whether the mail server takes mail of ours, or a letter to somebody."""
        return check_mail(self._config.mail, self._config.server_name, self._reactor, self._clock, recipient)

    # Identity servers.

    async def identity_servers(self) -> AsyncIterator[Finding]:
        """Whether those that are trusted answer."""
        settings = self._config.identity_servers
        if not settings.trusted:
            yield Finding("identity", "skipped", "There is no identity server in the settings.")
            return
        try:
            web = WebClient(self._reactor, ca_file=settings.ca_file, timeout=settings.timeout, user_agent=USER_AGENT)
        except AuthoritiesUnusable as error:
            yield Finding("identity", "fault", f"{error}.", "See to identity_servers.ca_file.")
            return
        for url in settings.trusted:
            try:
                answer = await web.request("GET", f"{url.rstrip('/')}/_matrix/identity/api/v1")
            except MatrixError as error:
                yield Finding("identity", "fault", f"{url} does not answer: {reason(error)}.", "See to it and its URL.")
                continue
            if answer.status == 200:
                yield Finding("identity", "ok", f"{url} answers.")
            else:
                sentence = f"{url} answers with {answer.status}, as no identity server does."
                yield Finding("identity", "fault", sentence, "See to its URL.")
