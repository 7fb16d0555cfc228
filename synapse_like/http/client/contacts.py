"""The address book: contacts as JSON or as vCards, in and out (BOOK-1).

What is sent is taken for vCards if its Content-Type says so, and for JSON otherwise; answers are JSON unless vCards are
asked for, by `format=vcard` or by Accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.contacts import Contacts, ShownContact
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.handlers.vcards import MOST_IMPORTED, VERSIONS
from synapse_like.http.requests import Call, as_object, decode_json
from synapse_like.http.responses import Response
from synapse_like.protocol.contacts import Contact, read_contact
from synapse_like.protocol.errors import BadJson, BadParam, TooLarge

#: Bytes of what is sent at the most; pictures count, though they are not kept.
MOST_SENT = 4 * 1024 * 1024
#: How deep JSON may nest: a contact is an object with lists.
DEPTH = 10
_VCARD_TYPES = frozenset(["text/vcard", "text/x-vcard", "text/directory"])
_USUAL_VERSION = "3.0"


class ContactEndpoints:
    """/contacts."""

    def __init__(self, contacts: Contacts, retransmissions: Retransmissions) -> None:
        self._contacts = contacts
        self._retransmissions = retransmissions

    async def all(self, call: Call[Requester]) -> object:
        """All contacts."""
        version = _vcard_version(call)
        shown = await self._contacts.all(call.requester)
        if version is not None:
            return await self._as_vcards(shown, version)
        return {"contacts": [contact_body(one) for one in shown]}

    async def one(self, call: Call[Requester]) -> object:
        """One contact."""
        version = _vcard_version(call)
        shown = await self._contacts.one(call.requester, call.params["contact_id"])
        return contact_body(shown) if version is None else await self._as_vcards([shown], version)

    async def _as_vcards(self, shown: list[ShownContact], version: str) -> Response:
        data = await self._contacts.write_vcards(shown, version)
        headers = {
            "Content-Type": "text/vcard; charset=utf-8",
            "Content-Disposition": 'attachment; filename="contacts.vcf"',
        }
        return Response(200, headers, data)

    async def add(self, call: Call[Requester]) -> object:
        """Add contacts: one, a list of them under `contacts`, or vCards."""
        unreadable = 0
        data: bytes = call.body
        if _is_vcard(call.header("Content-Type")):
            new, unreadable = await self._contacts.read_vcards(data)
        else:
            new = _contacts_in(as_object(decode_json(data, DEPTH), None))
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        outcome = await self._contacts.add(call.requester, new, request, merge=_flag(call, "merge", default=True))
        return {**outcome, "unreadable": unreadable}

    async def change(self, call: Call[Requester]) -> object:
        """Have one contact say something else."""
        contact = read_contact(as_object(decode_json(call.body, DEPTH), None))
        request = self._retransmissions.request(call.requester, call.retransmit_key)
        await self._contacts.replace(call.requester, call.params["contact_id"], contact, request)
        return {}

    async def delete(self, call: Call[Requester]) -> object:
        """Take one contact out."""
        await self._contacts.delete(call.requester, call.params["contact_id"])
        return {}

    async def delete_all(self, call: Call[Requester]) -> object:
        """Take all contacts out."""
        return {"deleted": await self._contacts.delete_all(call.requester)}


def contact_body(shown: ShownContact) -> dict[str, Any]:
    """A contact, marked with the Matrix user IDs that it is known to have."""
    marks = [
        {"user_id": mark.user_id, "known_by": "contact"}
        if mark.address is None
        else {"user_id": mark.user_id, "known_by": "identity_server", "address": mark.address}
        for mark in shown.marks
    ]
    return {"contact_id": shown.contact_id, **shown.contact.body()} | ({"matrix": marks} if marks else {})


def _contacts_in(body: Mapping[str, Any]) -> list[Contact]:
    listed = body.get("contacts")
    if listed is None:
        return [read_contact(body)]
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise BadJson("'contacts' must be a list of objects.")
    if len(listed) > MOST_IMPORTED:
        raise TooLarge(f"At most {MOST_IMPORTED} contacts can be added at once.")
    return [read_contact(one) for one in listed]


def _is_vcard(content_type: str | None) -> bool:
    return (content_type or "").partition(";")[0].strip().lower() in _VCARD_TYPES


def _vcard_version(call: Call[Requester]) -> str | None:
    """The version of vCard that is wanted; None for JSON."""
    named = call.query.text("format")
    if named not in (None, "json", "vcard"):
        raise BadParam("The parameter format must be json or vcard.")
    wants = named == "vcard" if named is not None else _is_vcard((call.header("Accept") or "").partition(",")[0])
    version = call.query.text("version", _USUAL_VERSION)
    if version not in VERSIONS:
        raise BadParam(f"The parameter version must be {' or '.join(VERSIONS)}.")
    return version if wants else None


def _flag(call: Call[Requester], name: str, *, default: bool) -> bool:
    text = call.query.text(name, "true" if default else "false")
    if text not in ("true", "false"):
        raise BadParam(f"The parameter {name} must be true or false.")
    return text == "true"
