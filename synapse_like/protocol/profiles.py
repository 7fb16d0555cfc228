"""What users tell of themselves: fields by name, what they may hold, and to whom each is open (PROF-1, PROF-3).

Display name and avatar are two of the fields. They are text, everybody may see them, and they go into m.room.member
events. All others hold any JSON.
"""

import re
from collections.abc import Mapping
from typing import Any

from synapse_like.protocol import canonical_json
from synapse_like.protocol.errors import BadJson, TooLarge
from synapse_like.protocol.shapes import one_of, string

DISPLAYNAME = "displayname"
AVATAR_URL = "avatar_url"
SHOWN = (DISPLAYNAME, AVATAR_URL)
"""The fields that rooms and observers are told."""

VISIBILITY = "visibility"
"""What stands beside a field in a request, and so cannot be a field."""
PUBLIC = "public"
SHARED_ROOMS = "shared-rooms"
PRESENCE_LIST = "presence-list"
PRIVATE = "private"
VISIBILITIES = (PUBLIC, SHARED_ROOMS, PRESENCE_LIST, PRIVATE)
"""To whom a field is open: everybody, those in a room with its user, those who may see the user's presence, nobody."""

MOST_FIELDS = 50
"""How many fields somebody may have beside display name and avatar."""
LONGEST_NAME = 128
"""Bytes of the name of a field."""
LONGEST_DISPLAYNAME = 256
"""Characters of a display name."""
MOST_BYTES: Mapping[str, int] = {DISPLAYNAME: 1000, AVATAR_URL: 2000}
"""Bytes of the text of a field."""
MOST_BYTES_OF_OTHERS = 4096
"""Bytes of the JSON of any other field."""
MOST_DEPTH = 20

_UNFIT = re.compile(r"[\x00-\x1f\x7f]")


def check_field(field: str) -> None:
    """See that something can be the name of a field.

    :raises BadJson: it cannot.
    """
    if not field or field == VISIBILITY or _UNFIT.search(field):
        raise BadJson(f"A field of a profile cannot be called {field[:LONGEST_NAME]!r}.")
    if len(field.encode(errors="surrogatepass")) > LONGEST_NAME:
        raise BadJson(f"The name of a field may not be longer than {LONGEST_NAME} bytes.")


def check_visibility(field: str, visibility: object) -> str:
    """See to whom a field is to be open; display name and avatar are open to everybody.

    :param visibility: None for what is usual.
    :raises BadJson: there is no such visibility, or it does not fit the field.
    """
    if visibility is None:
        return PUBLIC if field in SHOWN else PRIVATE
    one_of(*(VISIBILITIES if field not in SHOWN else (PUBLIC,)))(VISIBILITY, visibility)
    return str(visibility)


def check_value(field: str, value: object) -> None:
    """See that a field can hold a value.

    :raises BadJson: the value is of the wrong type, or no JSON.
    :raises TooLarge: it is too long.
    """
    canonical_json.check(value, max_depth=MOST_DEPTH, strict=False)
    if field not in SHOWN:
        if len(canonical_json.encode_in_any_order(value)) > MOST_BYTES_OF_OTHERS:
            raise TooLarge(f"'{field}' may not be longer than {MOST_BYTES_OF_OTHERS} bytes.")
        return
    text = string(field, value)
    if len(text.encode()) > MOST_BYTES[field]:
        raise TooLarge(f"'{field}' may not be longer than {MOST_BYTES[field]} bytes.")
    if field == DISPLAYNAME and len(text) > LONGEST_DISPLAYNAME:
        raise TooLarge(f"'{field}' may not be longer than {LONGEST_DISPLAYNAME} characters.")


def is_nothing(field: str, value: object) -> bool:
    """Does a value say that there is none?"""
    return value is None or (field in SHOWN and value == "")


def read_profile(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The profile that another server tells of a user of its own.

    :raises BadJson: it is none.
    :raises TooLarge: it is larger than any of ours may be.
    """
    told = {field: value for field, value in answer.items() if not is_nothing(field, value)}
    if len(told) > MOST_FIELDS + len(SHOWN):
        raise TooLarge(f"A profile may not have more than {MOST_FIELDS} fields.")
    for field, value in told.items():
        check_field(field)
        check_value(field, value)
    return told
