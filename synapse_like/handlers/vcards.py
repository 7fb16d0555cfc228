"""vCards, read and written (BOOK-1): versions 3.0 and 4.0, and what telephones still write of 2.1.

What strangers have written is made harmless before the library sees it: only the properties that a contact has are
kept, one per line and without their parameters, of no more than some length. What lies within a card, such as another
card, is left out, and so are pictures and sounds. So it costs no more than it has bytes, whatever they are.
"""

# mypy: allow-untyped-calls
# (vobject is not all annotated.)

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from synapse_like.protocol.contacts import Contact, read_contact
from synapse_like.protocol.errors import BadJson, MatrixError, TooLarge

#: Contacts in one import at the most.
MOST_IMPORTED = 1000
#: Characters of a property, and of what stands before its colon.
LONGEST_LINE, LONGEST_HEAD = 8000, 500
#: Properties of a card that are read, and of all cards together.
MOST_LINES, MOST_PROPERTIES = 100, 20_000
#: The properties that are read.
_READ = frozenset(
    "FN N NICKNAME EMAIL TEL IMPP X-MATRIX X-MATRIX-ID ORG TITLE BDAY URL ADR NOTE".split()  # noqa: SIM905 - shorter so
)
_CHARSETS = frozenset(["utf-8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252"])
_ESCAPED_OR_COMMA = re.compile(r"(\\.)|,", re.DOTALL)
_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,60}\.)?([A-Za-z0-9-]{1,60})")
_MATRIX_URI = re.compile(r"matrix:(?:u/|@)?([^?#]+)", re.IGNORECASE)
_MATRIX_LINK = re.compile(r"https?://matrix\.to/#/(@[^?/#]+|%40[^?/#]+)", re.IGNORECASE)
VERSIONS = ("3.0", "4.0")


def read_vcards(data: bytes) -> tuple[list[Contact], int]:
    """The contacts of some vCards, and how many cards could not be read.

    :raises BadJson: it is no text in UTF-8, or there is no card at all.
    :raises TooLarge: there are too many cards.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadJson("The vCards must be text in UTF-8.", reason=str(error)) from None
    found: list[Contact] = []
    unreadable = 0
    for number, lines in enumerate(_cards(text)):
        if number >= MOST_IMPORTED:
            raise TooLarge(f"At most {MOST_IMPORTED} contacts can be imported at once.")
        contact = None if lines is None else _read(lines)
        if contact is None:
            unreadable += 1
        else:
            found.append(contact)
    if not found and not unreadable:
        raise BadJson("There is no vCard in this.")
    return found, unreadable


def _cards(text: str) -> Iterator[list[str] | None]:
    """The lines of each card that are to be read; None for a card that has no end."""
    depth = number = 0
    lines: list[str] = []
    for name, parameters, value in _properties(text):
        if name == "BEGIN":
            if depth or value.strip().upper() == "VCARD":
                depth += 1
        elif name == "END":
            if depth == 1:
                yield lines
                lines = []
            depth = max(0, depth - 1)
        elif depth == 1 and name in _READ and len(lines) < MOST_LINES:
            number += 1
            if number > MOST_PROPERTIES:
                raise TooLarge(f"At most {MOST_PROPERTIES} lines of vCards can be imported at once.")
            plain = _decoded(parameters, value)
            if plain is not None:
                lines += [f"{name}:{one}" for one in _values(name, plain)]
    if depth:
        yield None


def _values(name: str, value: str) -> list[str]:
    """What a property says, as the library reads it: it takes a bare comma for the end of the value."""
    if name == "N":
        return [value]
    if name == "NICKNAME":
        # A list, whose commas are bare, while those of its texts are not.
        return [part for part in re.split(r"((?:\\.|[^,\\])*),?", value)[1::2] if part][:MOST_LINES]
    return [_ESCAPED_OR_COMMA.sub(lambda match: match[1] or "\\,", value)]


def _properties(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, parameters and value of each property; what is none, or too long, is left out."""
    for line in _logical_lines(text):
        end = _end_of_head(line)
        match = _NAME.match(line)
        if end is None or match is None or line[match.end()] not in ":;":
            continue
        yield match[1].upper(), line[match.end() : end].upper(), line[end + 1 :]


def _logical_lines(text: str) -> Iterator[str]:
    """Lines as they were before they were folded; of those that are too long, nothing."""
    parts: list[str] = []
    length = 0
    is_soft = False
    for raw in re.split(r"\r\n|\n|\r", text):
        is_fold = raw[:1] in (" ", "\t") and bool(parts)
        if not is_fold and not is_soft:
            if parts and length <= LONGEST_LINE:
                yield "".join(parts)
            parts, length = [], 0
        piece = raw[1:] if is_fold and not is_soft else raw
        if is_soft:
            parts[-1] = parts[-1][:-1]
        length += len(piece)
        if length <= LONGEST_LINE or not parts:
            parts.append(piece[: LONGEST_LINE + 1])
        # A line of quoted-printable text that ends so goes on (RFC 2045, 6.7).
        is_soft = (
            length <= LONGEST_LINE and piece.endswith("=") and "QUOTED-PRINTABLE" in parts[0][:LONGEST_HEAD].upper()
        )
    if parts and length <= LONGEST_LINE:
        yield "".join(parts)


def _end_of_head(line: str) -> int | None:
    """Where the colon stands that ends name and parameters; those may hold others within quotes."""
    is_quoted = False
    for place, character in enumerate(line[:LONGEST_HEAD]):
        if character == '"':
            is_quoted = not is_quoted
        elif character == ":" and not is_quoted:
            return place
    return None


def _decoded(parameters: str, value: str) -> str | None:
    """The value as plain text; None for what is not text."""
    if re.search(r"BASE64|ENCODING=B\b", parameters):
        return None
    if "QUOTED-PRINTABLE" not in parameters:
        return value
    named = re.search(r"CHARSET=\"?([A-Z0-9_-]{1,20})", parameters)
    charset = named[1].lower() if named is not None else "utf-8"
    if charset not in _CHARSETS or not value.isascii():
        return None
    try:
        text = quopri.decodestring(value.encode()).decode(charset)
    except (UnicodeDecodeError, binascii.Error):
        return None
    return re.sub(r"\r\n|\n|\r", r"\\n", text)


def _read(lines: Sequence[str]) -> Contact | None:
    """The contact of a card; None if it says nothing."""
    # Loaded with the first card that is read or written.
    import vobject
    from vobject.base import VObjectError

    try:
        card = vobject.readOne(
            "\r\n".join(["BEGIN:VCARD", "VERSION:3.0", *lines, "END:VCARD", ""]), ignoreUnreadable=True
        )
        return read_contact(_fields(card), strictly=False)
    except (VObjectError, MatrixError, ValueError, TypeError, AttributeError, IndexError):
        # Whatever the library makes of nonsense: it is a card that cannot be read, which is told.
        return None


def _fields(card: Any) -> dict[str, Any]:
    """The fields of a contact, as the card has them."""

    def values(name: str) -> list[Any]:
        return [line.value for line in card.contents.get(name, ())]

    def texts(name: str) -> list[str]:
        return [value for value in values(name) if isinstance(value, str)]

    def text(name: str) -> str:
        return next((value.strip() for value in texts(name) if value.strip()), "")

    urls, users = [], [*texts("x-matrix"), *texts("x-matrix-id")]
    for url in [*texts("impp"), *texts("url")]:
        user_id = _user_in(url)
        if user_id is not None:
            users.append(user_id)
        else:
            urls.append(url)
    organizations = [", ".join(filter(None, value)) for value in values("org") if isinstance(value, list)]
    return {
        "name": text("fn") or next((_joined(value) for value in values("n")), ""),
        "nicknames": texts("nickname"),
        "emails": [re.sub(r"^mailto:", "", value, flags=re.IGNORECASE) for value in texts("email")],
        "phones": [re.sub(r"^tel:", "", value, flags=re.IGNORECASE).partition(";")[0] for value in texts("tel")],
        "user_ids": users,
        "organization": organizations[0] if organizations else text("org"),
        "title": text("title"),
        "birthday": text("bday"),
        "urls": urls,
        "addresses": [line for line in map(_joined, values("adr")) if line],
        "note": "\n".join(texts("note")),
    }


def _user_in(url: str) -> str | None:
    """The Matrix user that a link leads to; None if it leads elsewhere."""
    match = _MATRIX_URI.fullmatch(url.strip())
    if match is not None:
        return "@" + unquote(match[1]).removeprefix("@")
    link = _MATRIX_LINK.match(url.strip())
    return unquote(link[1]) if link is not None else None


#: The parts, in the order in which people write them.
_OF_A_NAME = "prefix given additional family suffix"
_OF_AN_ADDRESS = "box extended street code city region country"


def _joined(value: Any) -> str:
    """A name or an address of several parts as one text, the way people write it."""
    if isinstance(value, str):
        return ", ".join(filter(None, (part.strip() for part in value.split(";"))))
    order, divider = (_OF_A_NAME, " ") if hasattr(value, "given") else (_OF_AN_ADDRESS, ", ")
    parts = [getattr(value, name, "") for name in order.split()]
    flat = [" ".join(part) if isinstance(part, list) else str(part) for part in parts]
    return divider.join(filter(None, (part.strip() for part in flat)))


# Writing.


def write_vcards(contacts: Sequence[tuple[str, Contact, Sequence[str]]], version: str) -> bytes:
    """Contacts as vCards.

    :param contacts: each with its ID before it, and the user IDs that it is known to have behind it.
    :param version: one of `VERSIONS`.
    """
    return "".join(_write(*one, version) for one in contacts).encode()


def _write(contact_id: str, contact: Contact, user_ids: Sequence[str], version: str) -> str:
    import vobject
    from vobject.vcard import Name

    card = vobject.vCard()

    def add(name: str, value: Any) -> None:
        card.add(name).value = value

    shown = contact.name or next(iter([*contact.emails, *contact.phones, *contact.user_ids]), "")
    add("fn", shown)
    add("n", Name(given=contact.name))
    add("uid", contact_id)
    for name, several in (("email", contact.emails), ("tel", contact.phones), ("url", contact.urls)):
        for value in several:
            add(name, value)
    for user_id in user_ids:
        add("impp", f"matrix:u/{user_id[1:]}")
    for nickname in contact.nicknames:
        add("nickname", nickname)
    if contact.organization:
        add("org", [contact.organization])
    for name, value in (("title", contact.title), ("bday", contact.birthday), ("note", contact.note)):
        if value:
            add(name, value)
    for address in contact.addresses:
        add("adr", vobject.vcard.Address(street=address))
    written = str(card.serialize(validate=False))
    return written.replace("VERSION:3.0", f"VERSION:{version}", 1)
