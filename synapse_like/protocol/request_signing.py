"""Requests between servers: signed by the one that asks, for the one that is asked (FED-9, SEC-8).

What is signed is the canonical JSON of the method, the path with its query exactly as sent, both servers' names and,
if there is a body, its JSON (server-server API, "Request Authentication"). The signature travels in a header:

    Authorization: X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="…"

The old form leaves `destination` out; it is checked as if it named whoever was asked.
"""

import re
from typing import NamedTuple

from nacl.exceptions import CryptoError
from signedjson.types import SigningKey, VerifyKey
from unpaddedbase64 import decode_base64, encode_base64

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import BadJson, CanonicalJsonError, SignatureError
from synapse_like.protocol.identifiers import parse_server_name

SCHEME = "X-Matrix"

LONGEST_HEADER = 2048
"""Characters of a header that is read at all; an honest one has about 800 at the most."""

_MOST_PARAMETERS = 16
# One parameter and what divides it from the next (RFC 9110, 11.2), except that a plain value may hold whatever is no
# space, comma or quote: there are servers that leave the quotes away around a port or base64.
_PARAMETER = re.compile(
    r"[ \t]*(?P<name>[A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*=[ \t]*"
    r"(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s\",]+))[ \t]*(?:,|$)"
)
_ESCAPED = re.compile(r"\\(.)")
_KEY_ID = re.compile(r"ed25519:[A-Za-z0-9_+/=.-]{1,128}")


class Credentials(NamedTuple):
    """What the header of a request says.

    :ivar origin: the server that claims to ask.
    :ivar destination: the server that it means to ask; None in the old form.
    :ivar key_id: the key that it signed with.
    :ivar signature: in base64.
    """

    origin: str
    destination: str | None
    key_id: str
    signature: str


def is_key_id(text: str) -> bool:
    """Is this the ID of a key of the one kind that we know, ed25519?"""
    return _KEY_ID.fullmatch(text) is not None


def encode_content(content: object) -> bytes:
    """The canonical JSON of a body, be it of an old room version that knows no strictness.

    :raises CanonicalJsonError: there is no JSON for it.
    """
    try:
        return canonical_json.encode(content)
    except CanonicalJsonError:
        # It may hold an integer of more than 64 bits.
        return canonical_json.encode(content, strict=False)


def authorization(
    *, method: str, uri: str, origin: str, destination: str, content: bytes | None, key: SigningKey
) -> str:
    """The value of the header for a request.

    :param uri: path and query, percent-encoded as they are sent.
    :param content: the body in canonical JSON; None if there is none.
    """
    signature = encode_base64(key.sign(_signed_bytes(method, uri, origin, destination, content)).signature)
    return f'{SCHEME} origin="{origin}",destination="{destination}",key="{key.alg}:{key.version}",sig="{signature}"'


def parse_authorization(header: str) -> Credentials:
    """Read such a header: its parameters in any order, with or without quotes; unknown ones do not matter.

    :raises SignatureError: it is not one, it lacks something, or it says something twice.
    """
    if len(header) > LONGEST_HEADER:
        raise SignatureError("The authorization is too long.")
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != SCHEME.lower():
        raise SignatureError("Requests of servers must be signed: there is no X-Matrix authorization.")
    given = _parameters(rest)
    missing = [name for name in ("origin", "key", "sig") if name not in given]
    if missing:
        raise SignatureError(f"The X-Matrix authorization lacks {' and '.join(missing)}.")
    if not is_key_id(given["key"]):
        raise SignatureError("The X-Matrix authorization names a key that is not of the kind ed25519.")
    return Credentials(
        _server_name("origin", given["origin"]),
        _server_name("destination", given["destination"]) if "destination" in given else None,
        given["key"],
        given["sig"],
    )


def verify(
    credentials: Credentials, *, method: str, uri: str, destination: str, content: bytes | None, key: VerifyKey
) -> None:
    """See that a request was signed by its origin, with the key that it names, and for us.

    :param uri: path and query, exactly as received.
    :param destination: our name.
    :param content: the JSON of the body, made canonical; None if there was none.
    :raises SignatureError: it was not.
    """
    if credentials.destination not in (None, destination):
        raise SignatureError("This request was signed for another server.")
    try:
        key.verify(
            _signed_bytes(method, uri, credentials.origin, destination, content), decode_base64(credentials.signature)
        )
    except (CryptoError, ValueError) as error:
        raise SignatureError(f"The signature of {credentials.origin} is false.", reason=repr(error)) from error


def _signed_bytes(method: str, uri: str, origin: str, destination: str, content: bytes | None) -> bytes:
    """The canonical JSON that is signed. The body is in canonical JSON already, so it is put in as it stands."""
    rest = canonical_json.encode({"destination": destination, "method": method, "origin": origin, "uri": uri})
    return rest if content is None else b'{"content":%b,%b' % (content, rest[1:])


def _parameters(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    position = 0
    for _ in range(_MOST_PARAMETERS):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise SignatureError("The X-Matrix authorization cannot be read.")
        name = match["name"].lower()
        if name in given:
            raise SignatureError("The X-Matrix authorization says something twice.")
        quoted = match["quoted"]
        given[name] = match["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        position = match.end()
        if position == len(text):
            return given
    raise SignatureError("The X-Matrix authorization says too much.")


def _server_name(name: str, text: str) -> str:
    try:
        is_one = parse_server_name(text) == text
    except BadJson:
        is_one = False
    if not is_one:
        raise SignatureError(f"The {name} of the X-Matrix authorization is not the name of a server, in lower case.")
    return text
