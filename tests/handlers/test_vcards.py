"""vCards, read and written (BOOK-1); and what no honest program writes."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse_like.handlers.vcards import MOST_IMPORTED, VERSIONS, read_vcards, write_vcards
from synapse_like.protocol.contacts import Contact, read_contact
from synapse_like.protocol.errors import BadJson, MatrixError, TooLarge


def card(*lines: str, version: str = "3.0") -> bytes:
    return "\r\n".join(["BEGIN:VCARD", f"VERSION:{version}", *lines, "END:VCARD", ""]).encode()


def read(*lines: str, version: str = "3.0") -> Contact:
    [contact], unreadable = read_vcards(card(*lines, version=version))
    assert unreadable == 0
    return contact


def test_version_4() -> None:
    contact = read(
        "FN:Bob \\, the Builder",
        "N:Builder;Bob;;Dr.;",
        "EMAIL;TYPE=work;PREF=1:Bob@Example.org",
        'TEL;VALUE=uri;TYPE="voice,home":tel:+49-30-901820;ext=5',
        "IMPP:matrix:u/bob:example.org",
        "ORG:ACME;Research",
        "TITLE:Engineer",
        "NICKNAME:Bobby,B",
        "BDAY:19700131",
        "URL:https://matrix.to/#/%40bob2:example.org",
        "URL:https://example.org/bob",
        'ADR;LABEL="x:y":;;Main St 1;Town;;12345;Land',
        "NOTE:two\\nlines and",
        "  a fold",
        version="4.0",
    )
    assert contact == Contact(
        name="Bob , the Builder",
        nicknames=("Bobby", "B"),
        emails=("bob@example.org",),
        phones=("+4930901820",),
        user_ids=("@bob:example.org", "@bob2:example.org"),
        organization="ACME, Research",
        title="Engineer",
        birthday="19700131",
        urls=("https://example.org/bob",),
        addresses=("Main St 1, 12345, Town, Land",),
        note="two\nlines and a fold",
    )


def test_what_telephones_write() -> None:
    """Groups before names, quoted-printable text in other character sets, pictures."""
    contact = read(
        "N;CHARSET=ISO-8859-1;ENCODING=QUOTED-PRINTABLE:M=FCller;J=F6rg=",
        "en;;;",
        "item1.EMAIL;INTERNET:j@example.org",
        "item1.X-ABLabel:work",
        "PHOTO;ENCODING=BASE64;JPEG:" + "A" * 5000,
        " " + "B" * 5000,
        "X-MATRIX:@joergen:example.org",
        version="2.1",
    )
    assert contact.name == "Jörgen Müller"
    assert contact.emails == ("j@example.org",)
    assert contact.user_ids == ("@joergen:example.org",)


def test_bare_commas_end_nothing() -> None:
    """Many programs do not escape them, and the library reads no further."""
    contact = read(
        "FN:Bob, the Builder", "NOTE:one, two\\, three", "ORG:A, B;C", "NICKNAME:B\\,B,Bobby", "ADR:;;Main St, 1;;;;"
    )
    assert (contact.name, contact.note) == ("Bob, the Builder", "one, two, three")
    assert (contact.organization, contact.addresses) == ("A, B, C", ("Main St, 1",))
    assert contact.nicknames == ("B,B", "Bobby")


def test_byte_order_mark_and_bare_newlines() -> None:
    [contact], _ = read_vcards(b"\xef\xbb\xbf" + card("FN:Bob").replace(b"\r\n", b"\n"))
    assert contact.name == "Bob"


def test_cards_that_say_nothing_are_counted_and_others_read() -> None:
    contacts, unreadable = read_vcards(
        card("FN:Bob") + card("NOTE:nobody") + card("FN:Anna") + b"BEGIN:VCARD\r\nFN:x\r\n"
    )
    assert [contact.name for contact in contacts] == ["Bob", "Anna"]
    assert unreadable == 2


def test_card_within_a_card_is_left_out() -> None:
    assert read("FN:Bob", "BEGIN:VCARD", "FN:inner", "EMAIL:inner@example.org", "END:VCARD", "TITLE:Dr.") == Contact(
        name="Bob", title="Dr."
    )


def test_character_sets_that_are_none_are_not_asked_for() -> None:
    """A codec can be anything, as far as Python is concerned."""
    for charset in ("zlib", "rot13", "idna", "unicode_escape", "utf-7", "x" * 100):
        contact = read("FN:Bob", f"NOTE;CHARSET={charset};ENCODING=QUOTED-PRINTABLE:=41=42")
        assert contact == Contact(name="Bob")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_read_again(version: str) -> None:
    contact = read_contact(
        {
            "name": "Bob; the, Builder\\",
            "nicknames": ["Bobby"],
            "emails": ["bob@example.org", "b@example.com"],
            "phones": ["+4930901820", "030 901820"],
            "user_ids": ["@bob:example.org"],
            "organization": "ACME; Inc.",
            "title": "Engineer",
            "birthday": "1970-01-31",
            "urls": ["https://example.org/?a;b,c"],
            "addresses": ["Main St 1, Town"],
            "note": "ä" * 500 + "\nEND:VCARD\r\nBEGIN:VCARD",
        }
    )
    data = write_vcards([("id1", contact, ["@bob:example.org"]), ("id2", Contact(phones=("1",)), [])], version)
    assert data.count(f"VERSION:{version}\r\n".encode()) == 2
    assert max(map(len, data.split(b"\r\n"))) <= 75
    [first, second], unreadable = read_vcards(data)
    assert unreadable == 0
    assert first == read_contact(contact.body())
    assert (second.name, second.phones) == ("1", ("1",))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xfe" + "BEGIN:VCARD".encode("utf-16-le"), card("FN:x").replace(b"x", b"\xfc")]
)
def test_what_is_no_vcard_is_refused(data: bytes) -> None:
    with pytest.raises(BadJson):
        read_vcards(data)


def test_too_many_are_refused() -> None:
    with pytest.raises(TooLarge):
        read_vcards(card("FN:x") * (MOST_IMPORTED + 1))
    with pytest.raises(TooLarge):
        read_vcards(card(*["N:a;b"] * 90) * 900)


@pytest.mark.parametrize(
    "data",
    [
        b"BEGIN:VCARD\n" * 300_000,
        b"BEGIN:VCARD\nFN:" + b"a" * 4_000_000 + b"\nEND:VCARD",
        b"BEGIN:VCARD\n" + b" a\n" * 1_000_000 + b"END:VCARD",
        b"BEGIN:VCARD\nNOTE;ENCODING=QUOTED-PRINTABLE:" + b"=\n" * 1_500_000 + b"END:VCARD",
        b"BEGIN:VCARD\nFN;" + b',;="' * 120 + b":x\nFN:y\nEND:VCARD\n" + b"TEL" + b";," * 1_000_000,
        (b"BEGIN:VCARD\nFN:x\nNOTE:" + b"\\" * 7000 + b"\nEND:VCARD\n") * 500,
        b"BEGIN:VCARD\nN:" + b";" * 7000 + b"\nORG:" + b";," * 3000 + b"\nADR:" + b";," * 3000 + b"\nFN:x\nEND:VCARD",
        b"BEGIN:VCARD\n" + b"\r\r\n\n" * 1_000_000 + b"END:VCARD",
    ],
    ids=["nesting", "line", "folds", "soft", "parameters", "escapes", "parts", "newlines"],
)
def test_hostile_cards_cost_no_more_than_they_have_bytes(data: bytes) -> None:
    """BOOK-1, SEC-1: some seconds on a slow machine, where what is squared or doubled would take hours."""
    began = time.process_time()
    with suppress(MatrixError):
        read_vcards(data)
    assert time.process_time() - began < 15


_lines = st.lists(
    st.one_of(
        st.sampled_from(["BEGIN:VCARD", "END:VCARD", "FN:x", "N:a;b", " ", "=", "VERSION:4.0", 'EMAIL;X="', "ADR:;;"]),
        st.text(max_size=40),
        st.builds(
            "{}{}:{}".format,
            st.sampled_from(["N", "ORG", "ADR", "TEL", "IMPP"]),
            st.text(max_size=9),
            st.text(max_size=30),
        ),
    ),
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(_lines)
def test_anything_gives_contacts_or_a_refusal(lines: list[str]) -> None:
    data = "\n".join(["BEGIN:VCARD", *lines, "END:VCARD"]).encode("utf-8", "surrogatepass")
    try:
        contacts, _ = read_vcards(data)
    except MatrixError:
        return
    for contact in contacts:
        assert read_contact(contact.body(), strictly=True) == contact
        [again], _ = read_vcards(write_vcards([("id", contact, contact.user_ids)], "4.0"))
        assert again.emails == contact.emails
