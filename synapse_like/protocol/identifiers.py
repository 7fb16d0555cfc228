"""Names of people, rooms, events and servers: read, checked, and brought to the one form we compare.

An identifier is a sigil, a local part, a colon and the name of a server: `@alice:example.com`,
`#pub:example.com`, `!opaque:example.com`, `$opaque:example.com`. The first colon divides, since a server name
may hold another one before its port. User IDs, aliases and server names are compared without regard to case,
so their canonical form is in lower case; room IDs and event IDs are compared as they are (API-7).

In the later room versions the ID of an event, and at last that of a room, names no server: after the sigil comes a
SHA-256 in unpadded base64, whose 43 characters hold no colon.

Whatever is wrong with a text, every function here raises `BadJson`, with a sentence that names the kind of
value and its fault.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Literal, NamedTuple, NoReturn

from synapse_like.protocol.errors import BadJson

EventIdForm = Literal["chosen-by-origin", "hash", "url-safe-hash"]
"""Who or what makes an event's ID: its server, or its reference hash in one of two spellings of base64."""

RoomIdForm = Literal["chosen-by-creator", "create-event-hash"]
"""Who or what makes a room's ID: the creator's server, or the reference hash of the create event."""

MAX_ID_BYTES = 255
"""The longest identifier, in bytes of UTF-8."""

_QUOTED_CHARACTERS = 64

# Space of any kind, control characters and lone surrogates have no place in an identifier.
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# People choose aliases by hand, so there the plain space passes.
_UNFIT_IN_ALIAS = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# There are old users with anything else in their names.
_UNFIT_EVER = re.compile(r"[\x00\ud800-\udfff]")

_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_IPV4_PART = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_IPV4_PART}(?:\.{_IPV4_PART}){{3}}")
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?[0-9]+")
_SERVER_NAME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([1-9][0-9]{0,4}))?")
_LAST_PORT = 65535

# Appendix "Server Name", the grammar as it stands there: rooms may hold names that nobody should choose.
_HISTORICAL_SERVER_NAME = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(?::[0-9]{1,5})?")

_HASH = re.compile(r"[A-Za-z0-9+/]{43}")
_URL_SAFE_HASH = re.compile(r"[A-Za-z0-9_-]{43}")

_REGISTRABLE = re.compile(r"[a-z0-9._=/+-]+")


class UserId(NamedTuple):
    """`@localpart:domain`."""

    localpart: str
    domain: str

    def __str__(self) -> str:
        return f"@{self.localpart}:{self.domain}"


class RoomAlias(NamedTuple):
    """`#localpart:domain`."""

    localpart: str
    domain: str

    def __str__(self) -> str:
        return f"#{self.localpart}:{self.domain}"


def parse_user_id(text: str) -> UserId:
    """The parts of a user ID, with their case kept."""
    return UserId(*_split(text, "user ID", "@", _UNFIT))


@lru_cache(maxsize=4096)
def canonical_user_id(text: str) -> str:
    """The form of a user ID that we store and compare: ASCII letters in lower case (API-7)."""
    parse_user_id(text)
    return _ascii_lower(text)


def historical_user_id(text: str) -> str:
    """The user ID itself, as the rooms of Matrix room versions may hold it.

    There the local part may be empty or hold anything but NUL, the server's name may be anything that the grammar
    allows, and nothing is compared without regard to case (appendices "Historical User IDs" and "Server Name").
    """
    _split(text, "user ID", "@", _UNFIT_EVER, parse_domain=_historical_server_name, may_be_empty=True)
    return text


def parse_alias(text: str) -> RoomAlias:
    """The parts of a room alias, with their case kept."""
    return RoomAlias(*_split(text, "room alias", "#", _UNFIT_IN_ALIAS))


def canonical_state_key(text: str) -> str:
    """A state key in its one spelling: one that begins with "@" is a user ID, any other stays as it is (API-7)."""
    return canonical_user_id(text) if text.startswith("@") else text


def canonical_alias(text: str) -> str:
    """The form of a room alias that we store and compare: lower case, in every script (API-7)."""
    alias = str(parse_alias(text)).lower()
    # A letter may need more bytes in lower case than it did before.
    _check_length(alias, "room alias")
    return alias


@lru_cache(maxsize=4096)
def parse_room_id(text: str, form: RoomIdForm | None = None) -> str:
    """The room ID itself, if it is one.

    :param form: the only one that will do; None for any.
    """
    kind = "room ID"
    if form != "chosen-by-creator" and _is_hash(text, "!", _URL_SAFE_HASH):
        return text
    if form == "create-event-hash":
        _refuse(kind, text, "is not '!' and a hash in URL-safe base64")
    _split(text, kind, "!", _UNFIT)
    return text


def historical_room_id(text: str) -> str:
    """The room ID itself, as the rooms of Matrix room versions that name a server may hold it (appendix "Room IDs")."""
    _split(text, "room ID", "!", _UNFIT_EVER, parse_domain=_historical_server_name)
    return text


@lru_cache(maxsize=4096)
def parse_event_id(text: str, form: EventIdForm | None = None) -> str:
    """The event ID itself, if it is one.

    :param form: the only one that will do; None for any.
    """
    kind = "event ID"
    if form in ("hash", None) and _is_hash(text, "$", _HASH):
        return text
    if form in ("url-safe-hash", None) and _is_hash(text, "$", _URL_SAFE_HASH):
        return text
    if form in ("hash", "url-safe-hash"):
        spelling = "base64" if form == "hash" else "URL-safe base64"
        _refuse(kind, text, f"is not '$' and a hash in {spelling}")
    _split(text, kind, "$", _UNFIT)
    return text


@lru_cache(maxsize=4096)
def parse_server_name(text: str) -> str:
    """A server's name in lower case.

    It is a DNS name, an IPv4 address or an IPv6 address in brackets, with or without a port.
    """
    kind = "server name"
    _check_length(text, kind)
    name = _ascii_lower(text)
    match = _SERVER_NAME.fullmatch(name)
    if match is None or not _is_host(match[1]):
        _refuse(kind, text, "is neither a DNS name nor an IP address, with or without a port")
    if match[2] is not None and int(match[2]) > _LAST_PORT:
        _refuse(kind, text, f"has a port above {_LAST_PORT}")
    return name


def domain_of(identifier: str) -> str:
    """The server that a well-formed identifier names: what follows its first colon."""
    _, colon, domain = identifier.partition(":")
    if not colon:
        _refuse("identifier", identifier, "names no server")
    return domain


def local_part_for_registration(text: str, server_name: str) -> str:
    """The local part that a new user of this server gets.

    :param text: a bare local part or the full user ID, in any case.
    :param server_name: the name of this server.
    :raises BadJson: it is a user ID of another server, it holds anything but `a-z 0-9 . _ = / + -`, or the
        user ID would be longer than 255 bytes.
    """
    kind = "user name"
    local_part = _ascii_lower(text)
    if text.startswith("@"):
        local_part, domain = parse_user_id(local_part)
        if domain != parse_server_name(server_name):
            _refuse("user ID", text, f"does not belong to {server_name}")
    if not _REGISTRABLE.fullmatch(local_part):
        _refuse(kind, text, "may hold only letters a-z, digits and the characters . _ = / + -")
    _check_length(str(UserId(local_part, server_name)), "user ID")
    return local_part


def alias_localpart(text: str) -> str:
    """The local part of a room alias that a client wishes for, in lower case (ROOM-1, `room_alias_name`).

    Whether it fits together with the server's name is for `canonical_alias` to say.
    """
    kind = "room alias name"
    if not text:
        _refuse(kind, text, "is empty")
    if ":" in text or "#" in text:
        _refuse(kind, text, "must be the part between '#' and ':'")
    _check_characters(text, kind, _UNFIT_IN_ALIAS)
    lowered = text.lower()
    _check_length(lowered, kind)
    return lowered


def _is_hash(text: str, sigil: str, spelling: re.Pattern[str]) -> bool:
    return text.startswith(sigil) and spelling.fullmatch(text, 1) is not None


def _historical_server_name(text: str) -> str:
    if not _HISTORICAL_SERVER_NAME.fullmatch(text):
        _refuse("server name", text, "is neither a DNS name nor an IP address, with or without a port")
    return text


def _split(
    text: str,
    kind: str,
    sigil: str,
    unfit: re.Pattern[str],
    *,
    parse_domain: Callable[[str], str] = parse_server_name,
    may_be_empty: bool = False,
) -> tuple[str, str]:
    """The two parts of an identifier, after every check that identifiers have in common."""
    if not text.startswith(sigil):
        _refuse(kind, text, f"does not start with '{sigil}'")
    _check_characters(text, kind, unfit)
    _check_length(text, kind)
    local_part, colon, domain = text[1:].partition(":")
    if not colon:
        _refuse(kind, text, "names no server: there is no ':' in it")
    if not local_part and not may_be_empty:
        _refuse(kind, text, f"has nothing between '{sigil}' and ':'")
    parse_domain(domain)
    return local_part, domain


def _is_host(host: str) -> bool:
    if host.startswith("["):
        try:
            IPv6Address(host[1:-1])
        except AddressValueError:
            return False
        return True
    # What ends in a number can only be an address: "1.2.3" and "1.2.3.400" are not DNS names.
    if _ENDS_IN_NUMBER.fullmatch(host):
        return _IPV4.fullmatch(host) is not None
    return _DNS_NAME.fullmatch(host) is not None


def _check_characters(text: str, kind: str, unfit: re.Pattern[str]) -> None:
    found = unfit.search(text)
    if found is not None:
        _refuse(kind, text, f"may not contain the character {found[0]!r}")


def _check_length(text: str, kind: str) -> None:
    # A lone surrogate cannot be encoded; counted like this it is refused by what is checked next.
    if len(text.encode(errors="surrogatepass")) > MAX_ID_BYTES:
        _refuse(kind, text, f"is longer than {MAX_ID_BYTES} bytes")


def _ascii_lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


_ASCII_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def _refuse(kind: str, text: str, fault: str) -> NoReturn:
    # repr() escapes what could not be sent in an answer or would spoil a line of the log.
    quoted = repr(text[:_QUOTED_CHARACTERS]) + ("…" if len(text) > _QUOTED_CHARACTERS else "")
    raise BadJson(f"The {kind} {quoted} {fault}.")
