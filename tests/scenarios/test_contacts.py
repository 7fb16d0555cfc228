"""The address book (BOOK-1), on one server."""

from __future__ import annotations

from tests.scenarios.conftest import FreshServer
from tests.support.client import ApiError, Client, Json, bad_json, not_found, quote, refused
from tests.support.processes import wait_until

VCARDS = b"""BEGIN:VCARD\r
VERSION:4.0\r
FN:Bob Builder\r
EMAIL:Bob@Example.org\r
IMPP:matrix:u/bob:example.org\r
END:VCARD\r
BEGIN:VCARD\r
VERSION:3.0\r
FN:Anna\r
N:Arendt;Anna;;;\r
TEL;TYPE=cell:+49 30 901820\r
PHOTO;ENCODING=b;TYPE=JPEG:AAAA\r
END:VCARD\r
BEGIN:VCARD\r
VERSION:3.0\r
FN:Robert\r
EMAIL:bob@example.org\r
ORG:ACME\r
END:VCARD\r
BEGIN:VCARD\r
NOTE:nobody\r
END:VCARD\r
"""
TYPE = {"Content-Type": "text/vcard; charset=utf-8"}


def book(client: Client) -> dict[str, Json]:
    """The contacts by their names."""
    return {contact["name"]: contact for contact in client.call("GET", "/contacts")["contacts"]}


def test_contacts_are_added_changed_and_deleted(alice: Client, bob: Client) -> None:
    """BOOK-1: one's own, seen by nobody else."""
    assert alice.call("GET", "/contacts") == {"contacts": []}
    added = alice.call("POST", "/contacts", {"name": "Bob", "user_ids": [bob.user_id], "emails": ["B@Example.org"]})
    [contact_id] = added["contact_ids"]
    assert (added["added"], added["merged"], added["duplicates"]) == (1, [], 0)
    expected = {
        "contact_id": contact_id,
        "name": "Bob",
        "emails": ["b@example.org"],
        "user_ids": [bob.user_id],
        "matrix": [{"user_id": bob.user_id, "known_by": "contact"}],
    }
    path = f"/contacts/{quote(contact_id)}"
    assert alice.call("GET", path) == expected
    assert alice.call("GET", "/contacts") == {"contacts": [expected]}
    assert bob.call("GET", "/contacts") == {"contacts": []}
    for method, body in (("GET", None), ("POST", {"name": "x"}), ("DELETE", None)):
        with not_found():
            bob.call(method, path, body)
    alice.call("POST", path, {"name": "Robert"})
    assert alice.call("GET", path) == {"contact_id": contact_id, "name": "Robert"}
    alice.call("DELETE", path)
    with not_found():
        alice.call("DELETE", path)
    alice.call("POST", "/contacts", {"contacts": [{"name": "A"}, {"name": "B"}]})
    assert alice.call("DELETE", "/contacts") == {"deleted": 2}
    with refused(401, "M_MISSING_TOKEN"):
        alice.call("GET", "/contacts", token="")


def test_same_person_is_one_contact_with_the_reason(alice: Client) -> None:
    """BOOK-1: put together, what was said before kept; what says nothing new is dropped."""
    first = alice.call("POST", "/contacts", {"name": "Bob", "emails": ["bob@example.org"]})
    again = alice.call("POST", "/contacts", {"name": "Bob", "emails": ["BOB@example.org"]})
    assert (again["added"], again["duplicates"], again["contact_ids"]) == (0, 1, [])
    second = alice.call("POST", "/contacts", {"name": "Robert", "emails": ["bob@example.org"], "title": "Dr."})
    reason = "both have the e-mail address bob@example.org"
    assert second["merged"] == [{"contact_id": first["contact_ids"][0], "reason": reason}]
    assert book(alice) == {
        "Bob": {
            "contact_id": first["contact_ids"][0],
            "name": "Bob",
            "nicknames": ["Robert"],
            "emails": ["bob@example.org"],
            "title": "Dr.",
            "merged": [reason],
        }
    }
    apart = alice.call("POST", "/contacts", {"name": "Bob's office", "emails": ["bob@example.org"]}, merge="false")
    assert (apart["added"], len(book(alice))) == (1, 2)


def test_vcards_come_in_and_go_out(alice: Client, bob: Client) -> None:
    """BOOK-1: of several versions, in one go; out again in either, by parameter or Accept."""
    answer = alice.request("POST", "/contacts", VCARDS, headers=TYPE)
    assert answer.status == 200
    assert (answer.json["added"], answer.json["unreadable"]) == (2, 1)
    assert [one["reason"] for one in answer.json["merged"]] == ["both have the e-mail address bob@example.org"]
    found = book(alice)
    assert found["Bob Builder"]["matrix"] == [{"user_id": "@bob:example.org", "known_by": "contact"}]
    assert found["Bob Builder"]["organization"] == "ACME"
    assert found["Anna"]["phones"] == ["+4930901820"]
    again = alice.request("POST", "/contacts", VCARDS, headers={"Content-Type": "text/x-vcard"})
    assert (again.json["added"], again.json["duplicates"]) == (0, 3)
    for version in ("3.0", "4.0"):
        exported = alice.request("GET", "/contacts", format="vcard", version=version)
        assert exported.status == 200
        assert exported.headers["Content-Type"] == "text/vcard; charset=utf-8"
        assert exported.body.count(f"VERSION:{version}\r\n".encode()) == 2
        assert b"IMPP:matrix:u/bob:example.org\r\n" in exported.body
        bob.call("DELETE", "/contacts")
        assert bob.request("POST", "/contacts", exported.body, headers=TYPE).json["added"] == 2
        assert book(bob)["Bob Builder"]["emails"] == ["bob@example.org"]
    assert alice.request("GET", "/contacts", headers={"Accept": "text/vcard"}).body.startswith(b"BEGIN:VCARD")
    one = alice.request("GET", f"/contacts/{quote(found['Anna']['contact_id'])}", format="vcard")
    assert one.body.count(b"BEGIN:VCARD") == 1
    assert b"FN:Anna\r\n" in one.body
    for query in ({"format": "xml"}, {"version": "2.1"}, {"version": "5"}):
        with refused(400, "M_INVALID_PARAM"):
            alice.call("GET", "/contacts", **query)


def test_requests_with_transaction_ids_are_done_once(alice: Client) -> None:
    """BOOK-1, API-4."""
    first = alice.call("PUT", "/contacts/once", {"name": "Bob"})
    assert alice.call("PUT", "/contacts/once", {"name": "Bob"}) == first
    assert first["added"] == 1
    path = f"/contacts/{quote(first['contact_ids'][0])}"
    alice.call("PUT", f"{path}/change", {"name": "Robert"})
    alice.call("POST", path, {"name": "Rob"})
    alice.call("PUT", f"{path}/change", {"name": "Robert"})
    assert list(book(alice)) == ["Rob"]


def test_nonsense_is_refused_and_changes_nothing(alice: Client) -> None:
    """BOOK-1, SEC-1: whole or not at all."""
    wrong: list[object] = [
        {},
        {"contacts": {}},
        {"contacts": ["Bob"]},
        {"contacts": [{"name": "Bob"}, {"name": 5}]},
        {"name": "x", "emails": ["nowhere"]},
        {"name": "x" * 10_000},
        {"name": "x", "note": "n" * 5000},
        {"contacts": [[[[[[[[[[[[[]]]]]]]]]]]]]},
    ]
    for body in wrong:
        with bad_json():
            alice.call("POST", "/contacts", body)
    with refused(413, "M_TOO_LARGE"):
        alice.call("POST", "/contacts", {"contacts": [{"name": f"n{number}"} for number in range(1001)]})
    for data in (b"", b"hello", b"\xff\xfe", "BEGIN:VCARD".encode("utf-16")):
        answer = alice.request("POST", "/contacts", data, headers=TYPE)
        assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
    answer = alice.request("POST", "/contacts", b"x" * (4 * 1024 * 1024 + 1), headers=TYPE)
    assert answer.status == 413
    assert alice.call("GET", "/contacts") == {"contacts": []}


def test_address_book_has_an_end(alice: Client) -> None:
    """BOOK-1, SEC-1: by number and by size; what is too much changes nothing."""
    for start in range(0, 5000, 1000):
        alice.call("POST", "/contacts", {"contacts": [{"name": f"n{start + number}"} for number in range(1000)]})
    with refused(413, "M_TOO_LARGE"):
        alice.call("POST", "/contacts", {"name": "one more"})
    assert len(alice.call("GET", "/contacts")["contacts"]) == 5000
    assert alice.call("POST", "/contacts", {"name": "N7"})["added"] == 0
    alice.call("DELETE", "/contacts")
    large = [{"name": f"n{number}", "note": "x" * 4000} for number in range(900)]
    alice.call("POST", "/contacts", {"contacts": large})
    with refused(413, "M_TOO_LARGE"):
        alice.call(
            "POST", "/contacts", {"contacts": [{"name": f"m{one['name']}", "note": one["note"]} for one in large]}
        )
    assert len(alice.call("GET", "/contacts")["contacts"]) == 900


def test_server_serves_while_a_hostile_file_is_read(alice: Client, bob: Client) -> None:
    """BOOK-1, SEC-1: vCards are read on a thread of their own."""
    hostile = b"BEGIN:VCARD\n" + b"NOTE;ENCODING=QUOTED-PRINTABLE:" + b"=\n" * 2_000_000 + b"END:VCARD"
    importing = [alice.start("POST", "/contacts", hostile) for _ in range(2)]
    for _ in range(5):
        assert bob.call("GET", "/contacts") == {"contacts": []}
    # They were not said to be vCards, so they are JSON that is none.
    assert {answer.answer().status for answer in importing} == {400}
    answer = alice.request("POST", "/contacts", hostile, headers=TYPE)
    assert (answer.status, answer.json.get("unreadable")) == (200, 1)


def test_book_survives_a_kill(fresh_server: FreshServer) -> None:
    server = fresh_server()
    alice = Client(server).register("alice")
    alice.request("POST", "/contacts", VCARDS, headers=TYPE)
    before = book(alice)
    server.kill9()
    server.start()
    assert wait_until("the book", lambda: _book_of(alice)) == before


def _book_of(client: Client) -> dict[str, Json] | None:
    try:
        return book(client)
    except (ApiError, ConnectionError):
        return None


def test_invites_of_contacts_alone(alice: Client, bob: Client, carol: Client) -> None:
    """BOOK-1, SEC-9: who is in the address book may invite, nobody else."""
    alice.call("PUT", "/account/invite_policy", {"policy": "contacts"})
    added = alice.call("POST", "/contacts", {"name": "Bob", "user_ids": [bob.user_id]})
    room = bob.create_room()
    bob.invite(room, alice)
    assert alice.join(room) == room
    other = carol.create_room()
    with refused(403, "M_FORBIDDEN"):
        carol.invite(other, alice)
    alice.call("DELETE", f"/contacts/{quote(added['contact_ids'][0])}")
    with refused(403, "M_FORBIDDEN"):
        bob.invite(bob.create_room(), alice)
