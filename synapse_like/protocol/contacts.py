"""Contacts of an address book: read, checked, and put together where two are of the same person (BOOK-1).

Every e-mail address and user ID is kept in its one spelling, and so is a phone number in international form; other
numbers stay as they are written. Two contacts are of the same person if they share a user ID, an e-mail address, a
phone number under the same name, or if they have nothing but the same name. What a contact then says is what both say:
nothing is lost but what does not fit.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import fields, replace

from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import canonical_user_id
from synapse_like.protocol.third_party_ids import EMAIL, PHONE, ThirdPartyId, phone_number

#: Characters of a text, by its field; of each of its texts, if it has several.
LONGEST: Final[Mapping[str, int]] = {
    "name": 200,
    "nicknames": 200,
    "emails": 254,
    "phones": 40,
    "user_ids": 255,
    "organization": 200,
    "title": 200,
    "birthday": 40,
    "urls": 500,
    "addresses": 500,
    "note": 4000,
}
#: Texts of a field that has several.
MOST: Final[Mapping[str, int]] = {
    "nicknames": 10,
    "emails": 20,
    "phones": 20,
    "user_ids": 10,
    "urls": 10,
    "addresses": 10,
}
#: Reasons for which a contact was put together that are kept.
MOST_REASONS = 10

_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_PHONE = re.compile(r"[+ ()./-]*[0-9][+0-9 ()./-]*")
_WORDS = {"user": "the user ID", "email": "the e-mail address", "called": "the name and the phone number"}


class Contact(Struct, frozen=True):
    """What is known of somebody.

    :ivar merged: why contacts were put together to this one.
    """

    name: str = ""
    nicknames: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()
    organization: str = ""
    title: str = ""
    birthday: str = ""
    urls: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    note: str = ""
    merged: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        """The same as a JSON object, without what is empty."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items() if value}

    @property
    def threepids(self) -> dict[str, ThirdPartyId]:
        """The addresses by which identity servers may know them, by their keys."""
        found = [ThirdPartyId(EMAIL, email) for email in self.emails]
        found += [ThirdPartyId(PHONE, phone[1:]) for phone in self.phones if phone.startswith("+")]
        return {f"{one.medium}:{one.address}": one for one in found}

    def keys(self) -> frozenset[str]:
        """All that they are found by."""
        users = [f"user:{user_id}" for user_id in self.user_ids]
        return frozenset([*users, *self.threepids, *self.same_person(), self.same_words()])

    def same_person(self) -> list[str]:
        """What no other person's contact has."""
        # Of contacts that were put together one name has become another's nickname.
        name, *others = (_SPACE.sub(" ", name).strip().casefold() for name in (self.name, *self.nicknames))
        found = [f"user:{user_id}" for user_id in self.user_ids]
        found += [f"email:{email}" for email in self.emails]
        found += [f"called:{phone} {called}" for phone in self.phones for called in dict.fromkeys((name, *others))]
        return found or [f"named:{name}"]

    def same_words(self) -> str:
        """What only a contact has that says the very same."""
        said = {name: value for name, value in self.body().items() if name != "merged"}
        return f"same:{sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]}"


def read_contact(said: Mapping[str, Any], *, strictly: bool = True) -> Contact:
    """A contact, of texts and lists of texts by the names of its fields; other keys are ignored.

    :param strictly: refuse what is malformed or too much; if not, it is left out or cut off.
    :raises BadJson: it is malformed, or says nothing by which one would know who is meant.
    """
    values: dict[str, Any] = {}
    for name in LONGEST:
        value = said.get(name)
        if value is None:
            continue
        if name in MOST:
            values[name] = _texts(name, value, strictly)
        else:
            values[name] = _text(name, value, strictly)
    contact = Contact(**values)
    if not (contact.name or contact.emails or contact.phones or contact.user_ids or contact.nicknames):
        raise BadJson("A contact needs a name, or an address, phone number or user ID.")
    if not contact.name and contact.nicknames:
        contact = replace(contact, name=contact.nicknames[0], nicknames=contact.nicknames[1:])
    return contact


def stored_contact(body: Mapping[str, Any]) -> Contact:
    """A contact that `Contact.body` has made an object of."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    return Contact(**values)


def _texts(name: str, value: object, strictly: bool) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise BadJson(f"'{name}' must be a list of strings.")
    found = []
    for one in value[: MOST[name] + 1 if strictly else 10 * MOST[name]]:
        try:
            text = _canonical(name, _text(name, one, strictly))
        except BadJson:
            if strictly:
                raise
            continue
        if text:
            found.append(text)
    if strictly and len(value) > MOST[name]:
        raise BadJson(f"'{name}' may have at most {MOST[name]} entries.")
    return tuple(dict.fromkeys(found))[: MOST[name]]


def _text(name: str, value: object, strictly: bool) -> str:
    if not isinstance(value, str):
        raise BadJson(f"'{name}' must be a string.")
    text = _UNFIT.sub("", value[: LONGEST[name] + 1 if strictly else 10 * LONGEST[name]]).strip()
    if len(value) > LONGEST[name] and strictly:
        raise BadJson(f"'{name}' may have at most {LONGEST[name]} characters.")
    return text[: LONGEST[name]]


def _canonical(name: str, text: str) -> str:
    if not text:
        return ""
    if name == "emails":
        return canonical_email(text)
    if name == "user_ids":
        return canonical_user_id(text)
    if name == "phones":
        if not _PHONE.fullmatch(text):
            raise BadJson(f"{text[:40]!r} is not a phone number.")
        try:
            return f"+{phone_number(text)}"
        except BadJson:
            # It may be one to be dialled from somewhere; only with a plus it would look like what it is not.
            return text.replace("+", "").strip()
    return text


# The same person.


def merged(one: Contact, other: Contact, reason: str) -> Contact:
    """What two contacts say together; where they differ and only one can be right, the other's word goes into the note.

    :param reason: why they are of the same person.
    """
    values: dict[str, Any] = {name: _together(name, getattr(one, name), getattr(other, name)) for name in MOST}
    lines = [one.note] + ([other.note] if other.note and other.note not in one.note else [])
    for name in ("name", "organization", "title", "birthday"):
        first, second = getattr(one, name), getattr(other, name)
        values[name] = first or second
        if first and second and first.casefold() != second.casefold():
            if name == "name":
                values["nicknames"] = _together("nicknames", values["nicknames"], (second,))
            elif f"{name}: {second}" not in one.note:
                lines.append(f"{name}: {second}")
    values["note"] = "\n".join(line for line in lines if line)[: LONGEST["note"]]
    together = Contact(**values, merged=one.merged)
    says_more = together.body() != one.body()
    reasons = dict.fromkeys([*one.merged, *other.merged, *([reason] if says_more else [])])
    return replace(together, merged=tuple(reasons)[-MOST_REASONS:])


def _together(name: str, one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*one, *other]))[: MOST[name]]


def why_same(key: str) -> str:
    """Why contacts with a key in common are of the same person, for the user to read."""
    kind, _, value = key.partition(":")
    if kind == "same":
        return "both say the very same"
    if kind == "named":
        return "both have nothing but the same name"
    if kind == "called":
        value = value.partition(" ")[0] if value.startswith("+") else value
    return f"both have {_WORDS[kind]} {value}"


def match_keys(contact: Contact, *, merge: bool) -> list[str]:
    """The keys that other contacts must not share.

    :param merge: whether contacts of the same person are put together; if not, only the very same counts.
    """
    return [contact.same_words(), *(contact.same_person() if merge else ())]


class Absorbed(Struct):
    """What became of new contacts.

    :ivar changed: contacts that are new or other than before, by their IDs.
    :ivar gone: those that were there and went into others.
    :ivar added: how many are new.
    :ivar duplicates: how many said nothing new.
    :ivar merges: the ID of each contact that was put together, and why.
    """

    changed: dict[str, Contact]
    gone: set[str]
    added: int
    duplicates: int
    merges: list[tuple[str, str]]


def absorb(present: Mapping[str, Contact], new: Sequence[Contact], new_ids: Sequence[str], *, merge: bool) -> Absorbed:
    """Put new contacts into an address book.

    :param present: those of the book that share a key with any of the new ones, by their IDs.
    :param new_ids: an ID for each of the new ones.
    :param merge: as for `match_keys`.
    """
    book = dict(present)
    by_key: dict[str, str] = {}
    result = Absorbed({}, set(), 0, 0, [])
    for contact_id, contact in book.items():
        for key in match_keys(contact, merge=merge):
            by_key.setdefault(key, contact_id)
    for contact, new_id in zip(new, new_ids, strict=True):
        keys = match_keys(contact, merge=merge)
        shared = {by_key[key]: key for key in reversed(keys) if by_key.get(key) in book}
        target, *others = list(shared) or [new_id]
        before = book.get(target)
        together = contact if before is None else merged(before, contact, why_same(shared[target]))
        for other in others:
            together = merged(together, book.pop(other), why_same(shared[other]))
            result.changed.pop(other, None)
            if other in present:
                result.gone.add(other)
            else:
                result.added -= 1
            result.merges.append((target, why_same(shared[other])))
        if before is None:
            result.added += 1
        elif together == before:
            result.duplicates += 1
            continue
        else:
            result.merges.append((target, why_same(shared[target])))
        book[target] = result.changed[target] = together
        for key in match_keys(together, merge=merge):
            by_key[key] = target
    result.merges = [(contact_id, why) for contact_id, why in dict.fromkeys(result.merges) if contact_id in book]
    return result
