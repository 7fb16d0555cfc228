"""Contacts: read, and put together (BOOK-1)."""

from __future__ import annotations

from itertools import count, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse_like.protocol.contacts import LONGEST, MOST, Absorbed, Contact, absorb, read_contact, stored_contact
from synapse_like.protocol.errors import BadJson

#: Of contacts; none has the ID of another one, nor of one that was.
_numbers = count(1)


def add(book: dict[str, Contact], *new: Contact, merge: bool = True) -> Absorbed:
    """Put contacts into a book, as it is done with the tables; all of the book is looked at."""
    result = absorb(book, new, [f"c{next(_numbers)}" for _ in new], merge=merge)
    for contact_id in result.gone:
        del book[contact_id]
    book.update(result.changed)
    return result


def test_what_is_known_is_kept_in_its_one_spelling() -> None:
    contact = read_contact(
        {
            "name": " Bob ",
            "emails": ["Bob@Example.ORG", "bob@example.org"],
            "phones": ["+49 (30) 901820", "030 / 901820", "+1 2"],
            "user_ids": ["@BOB:Example.org"],
            "unknown": {"key": 1},
        }
    )
    assert contact == Contact(
        name="Bob",
        emails=("bob@example.org",),
        phones=("+4930901820", "030 / 901820", "1 2"),
        user_ids=("@bob:example.org",),
    )
    assert stored_contact(contact.body()) == contact


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"note": "nobody"},
        {"name": 1},
        {"name": "x" * 201},
        {"name": "x", "emails": "x@example.org"},
        {"name": "x", "emails": ["no address"]},
        {"name": "x", "emails": [f"a{n}@example.org" for n in range(21)]},
        {"name": "x", "user_ids": ["bob"]},
        {"name": "x", "phones": ["call me"]},
        {"name": "x", "nicknames": [None]},
        {"name": "\x00\x01"},
    ],
)
def test_what_is_malformed_or_too_much_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        read_contact(wrong)


def test_what_others_have_written_is_cut_off_and_left_out() -> None:
    contact = read_contact({"name": "x" * 1000, "emails": ["?", "a@example.org"] * 100}, strictly=False)
    assert (len(contact.name), contact.emails) == (200, ("a@example.org",))


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (
            {"name": "Bob", "emails": ["bob@example.org"]},
            {"name": "Robert", "emails": ["BOB@example.org"]},
            "both have the e-mail address bob@example.org",
        ),
        (
            {"name": "Bob", "user_ids": ["@bob:example.org"]},
            {"name": "B", "user_ids": ["@Bob:example.org"]},
            "both have the user ID @bob:example.org",
        ),
        (
            {"name": "Bob  Builder", "phones": ["+4930901820"]},
            {"name": "bob builder", "phones": ["+49 30 901820"], "title": "Dr."},
            "both have the name and the phone number +4930901820",
        ),
        ({"name": "Bob"}, {"name": "BOB", "note": "met in Rome"}, "both have nothing but the same name"),
    ],
)
def test_same_person_is_one_contact_and_it_is_told_why(one: dict[str, Any], other: dict[str, Any], reason: str) -> None:
    for first, second in permutations([read_contact(one), read_contact(other)]):
        book: dict[str, Contact] = {}
        assert add(book, first).added == 1
        result = add(book, second)
        assert result.added == 0
        assert len(book) == 1
        [(contact_id, why)] = result.merges or [(next(iter(book)), "")]
        if result.duplicates:
            assert (first.name.casefold(), why) == (second.name.casefold(), "")
            continue
        assert (book[contact_id].merged, why) == ((reason,), reason)
        assert {first.name, second.name} <= {book[contact_id].name, *book[contact_id].nicknames} or (
            first.name.casefold().split() == second.name.casefold().split()
        )


def test_others_with_the_same_name_or_phone_are_others() -> None:
    book: dict[str, Contact] = {}
    people = [
        Contact("Bob", emails=("bob@example.org",)),
        Contact("Bob", emails=("bob@example.com",)),
        Contact("Bob"),
        Contact("Anna", phones=("+4930901820",)),
        Contact("Bert", phones=("+4930901820",)),
    ]
    assert add(book, *people).added == 5
    assert add(book, *people).duplicates == 5
    assert len(book) == 5


def test_contact_that_shows_two_to_be_one_person_joins_them() -> None:
    book: dict[str, Contact] = {}
    add(book, Contact("Bob", emails=("bob@example.org",)), Contact("Bobby", user_ids=("@bob:example.org",)))
    result = add(book, Contact("B", emails=("bob@example.org",), user_ids=("@bob:example.org",)))
    [contact] = book.values()
    assert (result.added, len(result.gone)) == (0, 1)
    assert contact.emails == ("bob@example.org",)
    assert contact.user_ids == ("@bob:example.org",)
    assert {contact.name, *contact.nicknames} == {"Bob", "Bobby", "B"}
    assert len(contact.merged) == 2


def test_what_differs_is_not_lost() -> None:
    book: dict[str, Contact] = {}
    add(book, Contact("Bob", user_ids=("@b:x.org",), organization="ACME", note="tall"))
    add(book, Contact("Bob", user_ids=("@b:x.org",), organization="Initech", birthday="1970-01-01", note="likes tea"))
    [contact] = book.values()
    assert (contact.organization, contact.birthday) == ("ACME", "1970-01-01")
    assert contact.note == "tall\nlikes tea\norganization: Initech"
    assert add(book, Contact("Bob", user_ids=("@b:x.org",), organization="Initech")).duplicates == 1


def test_only_the_very_same_is_dropped_if_nothing_is_to_be_put_together() -> None:
    book: dict[str, Contact] = {}
    bob, robert = Contact("Bob", emails=("bob@example.org",)), Contact("Robert", emails=("bob@example.org",))
    result = add(book, bob, robert, bob, merge=False)
    assert (result.added, result.duplicates, len(book)) == (2, 1, 2)


_few = st.sampled_from(["a", "b", "c", "d"])
_people = st.builds(
    Contact,
    name=_few,
    emails=st.lists(_few.map("{}@example.org".format), max_size=2, unique=True).map(tuple),
    phones=st.lists(_few.map(lambda x: f"+4930{ord(x)}"), max_size=2, unique=True).map(tuple),
    user_ids=st.lists(_few.map("@{}:example.org".format), max_size=1).map(tuple),
    note=st.sampled_from(["", "one", "two"]),
)


def test_who_was_found_to_be_somebody_else_is_known_by_both_names() -> None:
    """A number that both had was told with the one name only."""
    phone, user_id = ("+493097",), ("@a:example.org",)
    people = [
        Contact("a", phones=phone),
        Contact("b", phones=phone),
        Contact("a", phones=phone, user_ids=user_id),
        Contact("b", phones=phone, user_ids=user_id),
    ]
    book: dict[str, Contact] = {}
    add(book, *people)
    assert len(book) == 1
    assert add(book, *people).added == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(_people, max_size=8), st.integers(0, 8))
def test_no_two_contacts_of_a_book_are_of_one_person_and_nothing_is_lost(people: list[Contact], cut: int) -> None:
    """However it comes in: at once, or in two goes."""
    book: dict[str, Contact] = {}
    first, second = people[:cut], people[cut:]
    results = [add(book, *first), add(book, *second)]
    assert len(book) == sum(result.added - len(result.gone) for result in results)
    for field in ("emails", "phones", "user_ids"):
        said = {value for person in people for value in getattr(person, field)}
        kept = {value for contact in book.values() for value in getattr(contact, field)}
        assert kept == said
    for contact in book.values():
        for field, most in MOST.items():
            assert len(getattr(contact, field)) <= most
        assert len(contact.note) <= LONGEST["note"]
    addressed = [key for contact in book.values() for key in contact.same_person() if key.startswith(("user", "email"))]
    assert len(addressed) == len(set(addressed))
    assert add(book, *people).added == 0 or any(not (p.emails or p.phones or p.user_ids) for p in people)
