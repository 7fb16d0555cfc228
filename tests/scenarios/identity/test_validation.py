"""Seeing that somebody has an address: by a mail from a real mail server, and by a text message (ID-1)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.scenarios.conftest import Unique
from tests.scenarios.identity.conftest import IdentityServers
from tests.support.client import refused
from tests.support.identity import IdentityServer, link_in
from tests.support.processes import wait_until
from tests.support.smtp_server import SmtpServer

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def address(unique: Unique) -> str:
    return f"{unique('alice')}@example.org"


def path_of(link: str) -> str:
    """Path and query of a link."""
    parts = urlsplit(link)
    return f"{parts.path}?{parts.query}"


def submitted_by(link: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}


def test_address_is_proven_by_the_token_in_a_mail(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: validate by mail."""
    email = address(unique)
    sid, secret = identity.begin(email.upper())
    with refused(400, "M_SESSION_NOT_VALIDATED"):
        identity.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret=secret)
    given = submitted_by(link_in(identity.mail_to(email)))
    assert identity.call("POST", "/validate/email/submitToken", given) == {"success": True}
    found = identity.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret=secret)
    assert (found["medium"], found["address"]) == ("email", email)
    assert found["validated_at"] > 0


def test_mail_scanner_that_opens_the_link_proves_nothing(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: opening the link shows a page; its button proves the address."""
    email = address(unique)
    sid, secret = identity.begin(email, next_link="https://client.example/next?a=1&b=2")
    link = link_in(identity.mail_to(email))
    for accept in ("*/*", "text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8", ""):
        page = identity.request("GET", path_of(link), headers={"Accept": accept})
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert '<form method="post" action="submitToken">' in page.body.decode()
    with refused(400, "M_SESSION_NOT_VALIDATED"):
        identity.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret=secret)

    form = urlencode(submitted_by(link)).encode()
    answer = identity.request(
        "POST", "/validate/email/submitToken", form, headers={**FORM, "Accept": "text/html,*/*;q=0.8"}
    )
    assert answer.status == 200
    assert 'href="https://client.example/next?a=1&amp;b=2"' in answer.body.decode()
    assert "Go on to client.example" in answer.body.decode()
    assert identity.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret=secret)["address"] == email


def test_program_may_submit_by_get_if_it_wants_json_and_nothing_else(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: the GET of the API of the day."""
    email = address(unique)
    identity.begin(email)
    link = link_in(identity.mail_to(email))
    answer = identity.request("GET", path_of(link), headers={"Accept": "application/json"})
    assert (answer.status, answer.json) == (200, {"success": True})


def test_both_spellings_and_forms_are_understood(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: clients of the day send forms, and clientSecret where others send client_secret."""
    email = address(unique)
    form = urlencode({"email": email, "clientSecret": "s3cret", "sendAttempt": "1"}).encode()
    answer = identity.request("POST", "/validate/email/requestToken", form, headers=FORM)
    assert answer.status == 200, answer.body
    sid = answer.json["sid"]
    token = submitted_by(link_in(identity.mail_to(email)))["token"]
    form = urlencode({"sid": sid, "clientSecret": "s3cret", "token": token}).encode()
    answer = identity.request("POST", "/validate/email/submitToken", form, headers=FORM)
    assert (answer.status, answer.json) == (200, {"success": True})
    assert identity.call("GET", "/3pid/getValidated3pid", sid=sid, clientSecret="s3cret")["address"] == email


def test_same_attempt_sends_no_second_mail(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: a request that is made again means the same validation."""
    email = address(unique)
    sid, secret = identity.begin(email, attempt=1)
    first = identity.mail_to(email)
    assert identity.begin(email, secret, attempt=1) == (sid, secret)
    assert not identity.mail.has_new()
    assert identity.begin(email, secret, attempt=2) == (sid, secret)
    # Whichever of the mails is read first.
    assert link_in(identity.mail_to(email)) == link_in(first)


def test_wrong_tokens_are_limited_and_sessions_are_their_clients(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: guessing does not help, and neither does somebody else's secret."""
    email = address(unique)
    sid, secret = identity.begin(email)
    token = submitted_by(link_in(identity.mail_to(email)))["token"]
    with refused(404, "M_NO_VALID_SESSION"):
        body = {"sid": sid, "client_secret": "another", "token": token}
        identity.call("POST", "/validate/email/submitToken", body)
    with refused(404, "M_NO_VALID_SESSION"):
        body = {"sid": sid, "client_secret": secret, "token": token}
        identity.call("POST", "/validate/msisdn/submitToken", body)
    for _ in range(10):
        with refused(403, "M_FORBIDDEN"):
            body = {"sid": sid, "client_secret": secret, "token": "wrong"}
            identity.call("POST", "/validate/email/submitToken", body)
    with refused(403, "M_FORBIDDEN"):
        body = {"sid": sid, "client_secret": secret, "token": token}
        identity.call("POST", "/validate/email/submitToken", body)


def test_what_is_malformed_is_refused_with_a_reason(identity: IdentityServer) -> None:
    """ID-1: bad input is never a 500."""
    good = {"email": "alice@example.org", "client_secret": "s", "send_attempt": 1}
    for changes, errcode in (
        ({"email": "nobody"}, "M_INVALID_EMAIL"),
        ({"email": 5}, "M_BAD_JSON"),
        ({"client_secret": ""}, "M_BAD_JSON"),
        ({"client_secret": "x" * 256}, "M_BAD_JSON"),
        ({"client_secret": "nul\0"}, "M_BAD_JSON"),
        ({"send_attempt": "x"}, "M_BAD_JSON"),
        ({"send_attempt": 2**70}, "M_BAD_JSON"),
        ({"next_link": "javascript:alert(1)"}, "M_INVALID_PARAM"),
        ({"next_link": "https://[/"}, "M_INVALID_PARAM"),
    ):
        with refused(400, errcode):
            identity.call("POST", "/validate/email/requestToken", good | changes)
    for query in ({"sid": "\0", "client_secret": "s"}, {"sid": "x" * 100, "client_secret": "s"}, {"sid": "x"}):
        with refused(400, "M_INVALID_PARAM"):
            identity.call("GET", "/3pid/getValidated3pid", **query)
    with refused(404, "M_NO_VALID_SESSION"):
        identity.call("GET", "/3pid/getValidated3pid", sid="unknown", client_secret="s")
    answer = identity.request("POST", "/validate/email/requestToken", b"email=%FF", headers=FORM)
    assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")


def test_mail_that_cannot_be_sent_is_said_so_and_may_be_asked_for_again(
    identity: IdentityServer, mail: SmtpServer, unique: Unique
) -> None:
    """ID-1: the same attempt works once the mail server does."""
    email = address(unique)
    mail.behave("later-recipient")
    with refused(503, "M_UNAVAILABLE"):
        identity.begin(email, "again")
    mail.behave("refuse-recipient")
    with refused(400, "M_INVALID_PARAM"):
        identity.begin(email, "again")
    mail.behave()
    identity.begin(email, "again")
    assert link_in(identity.mail_to(email))


def test_one_address_is_not_flooded_with_mail(identity_servers: IdentityServers) -> None:
    """ID-1, RATE-1: messages to one address are limited, whoever asks for them."""
    server = identity_servers({"rate_limits.enabled": True}).start()
    for number in range(5):
        server.begin("victim@example.org", f"secret{number}")
        server.mail_to("victim@example.org")
    with refused(429, "M_LIMIT_EXCEEDED"):
        server.begin("victim@example.org", "one-more")
    server.begin("other@example.org")
    server.mail_to("other@example.org")


def test_validation_survives_a_kill_and_expires(identity_servers: IdentityServers) -> None:
    """ID-1: what was begun before a crash is finished after it."""
    server = identity_servers({"validation.lifetime": 86400}).start()
    sid, secret = server.begin("alice@example.org")
    given = submitted_by(link_in(server.mail_to("alice@example.org")))
    server.kill9()
    server.start()
    server.call("POST", "/validate/email/submitToken", given)
    assert server.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret=secret)["medium"] == "email"
    server.terminate()
    server.set(validation={"lifetime": 1})
    server.start()
    asked: dict[str, object] = {"sid": sid, "client_secret": secret}
    path = "/3pid/getValidated3pid"
    wait_until("its end, a second later", lambda: server.request("GET", path, **asked).status == 400)
    with refused(400, "M_SESSION_EXPIRED"):
        server.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret=secret)


# Phones.


class Gateway:
    """A gateway for text messages, which keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str | None, dict[str, Any]]] = []
        self.status = 200
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                gateway.told.append((self.headers["Authorization"], json.loads(body)))
                self.send_response(gateway.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/send"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


def test_phone_is_proven_by_the_code_in_a_text_message(identity_servers: IdentityServers, gateway: Gateway) -> None:
    """ID-1: phone numbers, by a gateway that is told by HTTP."""
    settings = {"sms.url": gateway.url, "sms.token": "gateway secret", "sms.sender": "Example"}
    server = identity_servers(settings).start()
    body = {"phone_number": "020 7946 0018", "country": "GB", "client_secret": "s", "send_attempt": 1}
    sid = server.call("POST", "/validate/msisdn/requestToken", body)["sid"]
    [(authorization, message)] = gateway.told
    assert authorization == "Bearer gateway secret"
    assert (message["to"], message["from"]) == ("+442079460018", "Example")
    code = message["text"].split()[-1]
    assert len(code) == 6
    assert code.isdigit()
    server.call("POST", "/validate/msisdn/submitToken", {"sid": sid, "client_secret": "s", "token": code})
    found = server.call("GET", "/3pid/getValidated3pid", sid=sid, client_secret="s")
    assert (found["medium"], found["address"]) == ("msisdn", "442079460018")
    server.call("POST", "/3pid/bind", {"sid": sid, "client_secret": "s", "mxid": "@alice:example.org"})
    assert server.call("GET", "/lookup", medium="msisdn", address="442079460018")["mxid"] == "@alice:example.org"

    gateway.status = 500
    with refused(503, "M_UNAVAILABLE"):
        server.call("POST", "/validate/msisdn/requestToken", body | {"client_secret": "t"})
    with refused(400, "M_INVALID_PHONE_NUMBER"):
        server.call("POST", "/validate/msisdn/requestToken", body | {"phone_number": "12"})


def test_server_without_a_gateway_says_so(identity: IdentityServer) -> None:
    """ID-1: phones only if the operator has a gateway."""
    body = {"phone_number": "+442079460018", "client_secret": "s", "send_attempt": 1}
    with refused(403, "M_FORBIDDEN"):
        identity.call("POST", "/validate/msisdn/requestToken", body)
