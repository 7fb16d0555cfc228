"""Contacts marked with the Matrix user ID that an identity server knows them to have (BOOK-1)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.scenarios.conftest import FreshServer, Unique
from tests.support.client import Client, Json, quote, refused
from tests.support.identity import API, IdentityServer
from tests.support.processes import free_port, wait_until


class Between:
    """Stands between a home server and an identity server, and notes what is asked.

    :ivar hides_hashing: whether the server seems to know no hashed look-ups.
    """

    def __init__(self, identity: IdentityServer) -> None:
        self.port = free_port()
        self.asked: list[tuple[str, str, bytes]] = []
        self.hides_hashing = False
        between = self

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                between.asked.append((self.command, self.path, body))
                if between.hides_hashing and self.path.endswith("/hash_details"):
                    status, content = 404, json.dumps({"errcode": "M_UNRECOGNIZED", "error": "?"}).encode()
                else:
                    headers = {"Content-Type": "application/json"}
                    answer = identity.request(self.command, self.path, body or None, headers)
                    status, content = answer.status, answer.body
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _pass_on  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def between(identity: IdentityServer) -> Iterator[Between]:
    server = Between(identity)
    yield server
    server.stop()


def marks(client: Client, contact_id: str) -> list[Json] | None:
    found: dict[str, Any] = client.call("GET", f"/contacts/{quote(contact_id)}")
    return found.get("matrix")


def test_contacts_are_marked_by_hashed_look_ups(
    fresh_server: FreshServer, identity: IdentityServer, between: Between, unique: Unique
) -> None:
    """BOOK-1: who is known is marked; addresses are not told; what was asked is remembered, for all."""
    server = fresh_server({"identity_servers.trusted": [between.url]})
    alice, bob = Client(server).register("alice"), Client(server).register("bob")
    email, unknown = f"{unique('bob')}@example.org", f"{unique('nobody')}@example.org"
    identity.bind(email, bob.user_id)
    body = {"contacts": [{"name": "Bob", "emails": [email]}, {"name": "Nobody", "emails": [unknown]}]}
    known_id, unknown_id = alice.call("POST", "/contacts", body)["contact_ids"]
    expected = [{"user_id": bob.user_id, "known_by": "identity_server", "address": email}]
    assert wait_until("the mark", lambda: marks(alice, known_id)) == expected
    assert marks(alice, unknown_id) is None
    assert [(method, path) for method, path, _ in between.asked] == [
        ("GET", f"{API}/hash_details"),
        ("POST", f"{API}/lookup"),
    ]
    assert not any(email.encode() in data or email in path for _, path, data in between.asked)
    # Remembered: neither looking again nor another's book asks once more.
    alice.call("GET", "/contacts")
    [other_id] = bob.call("POST", "/contacts", {"name": "Me", "emails": [email]})["contact_ids"]
    assert marks(bob, other_id) == expected
    assert len(between.asked) == 2
    exported = alice.request("GET", "/contacts", format="vcard").body
    assert f"IMPP:matrix:u/{bob.user_id[1:]}".encode() in exported.replace(b"\r\n ", b"")
    # Who is known by that is a contact whose invites are taken.
    alice.call("PUT", "/account/invite_policy", {"policy": "contacts"})
    carol = Client(server).register("carol")
    with refused(403, "M_FORBIDDEN"):
        carol.invite(carol.create_room(), alice)
    room = bob.create_room()
    bob.invite(room, alice)
    assert alice.join(room) == room


def test_server_without_hashed_look_ups_is_asked_one_by_one(
    fresh_server: FreshServer, identity: IdentityServer, between: Between, unique: Unique
) -> None:
    """BOOK-1: and its signed word counts."""
    server = fresh_server({"identity_servers.trusted": [between.url]})
    alice = Client(server).register("alice")
    email = f"{unique('bob')}@example.org"
    identity.bind(email, "@bob:example.org")
    between.hides_hashing = True
    [contact_id] = alice.call("POST", "/contacts", {"name": "Bob", "emails": [email]})["contact_ids"]
    expected = [{"user_id": "@bob:example.org", "known_by": "identity_server", "address": email}]
    assert wait_until("the mark", lambda: marks(alice, contact_id)) == expected


def test_nobody_finds_out_who_everybody_is(
    fresh_server: FreshServer, identity: IdentityServer, between: Between, unique: Unique
) -> None:
    """BOOK-1, SEC-1: each address counts as a look-up; what is left over is asked another time."""
    limits = {"rate_limits.enabled": True, "rate_limits.classes.lookup": {"per_second": 0.001, "burst": 5}}
    generous = {"per_second": 1000, "burst": 1000}
    others = {f"rate_limits.classes.{name}": generous for name in ("read", "send", "registration")}
    server = fresh_server({"identity_servers.trusted": [between.url], **limits, **others})
    alice = Client(server).register("alice")
    name = unique("n")
    people = [{"name": f"n{number}", "emails": [f"{name}-{number}@example.org"]} for number in range(20)]
    alice.call("POST", "/contacts", {"contacts": people})

    def hashes() -> list[str]:
        return [
            one for _, path, body in between.asked if path.endswith("/lookup") for one in json.loads(body)["addresses"]
        ]

    wait_until("a look-up", lambda: hashes() or None)
    for _ in range(3):
        alice.call("GET", "/contacts")
    assert len(hashes()) == 5


def test_address_book_works_without_the_identity_server(fresh_server: FreshServer) -> None:
    """BOOK-1: marks are something more; and nobody is asked where the operator does not want it."""
    for settings in ({}, {"contacts.look_up": False}):
        gone = f"http://127.0.0.1:{free_port()}"
        alice = Client(fresh_server({"identity_servers.trusted": [gone], **settings})).register("alice")
        alice.call("POST", "/contacts", {"name": "Bob", "emails": ["bob@example.org"]})
        [contact] = alice.call("GET", "/contacts")["contacts"]
        assert "matrix" not in contact
