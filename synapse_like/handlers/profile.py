"""Profiles: what users tell of themselves, and to whom (PROF-1, PROF-3).

Whoever asks for a profile is shown the fields that are open to them; a field that is not is as if it were not there.
Another server asks without saying for whom, so it is shown what is open to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from synapse_like.federation.client import FederationClient
from synapse_like.federation.errors import RemoteRefusal, ServerUnreachable
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.profile_changes import ProfileChanges
from synapse_like.protocol.errors import BadJson, Forbidden, NotFound, TooLarge
from synapse_like.protocol.identifiers import canonical_user_id, domain_of
from synapse_like.protocol.profiles import (
    MOST_FIELDS,
    PRESENCE_LIST,
    PUBLIC,
    SHARED_ROOMS,
    SHOWN,
    VISIBILITY,
    check_field,
    check_value,
    check_visibility,
    is_nothing,
    read_profile,
)
from synapse_like.storage import accounts, membership, profiles
from synapse_like.storage.database import Database
from synapse_like.storage.profiles import ProfileField
from synapse_like.storage.transactions import Transaction

MayObserve = Callable[[Transaction, str, str], bool]
"""Has somebody (the third) accepted that somebody else (the second) sees their presence?"""


class Profiles:
    """Shows and changes profiles."""

    def __init__(
        self,
        database: Database,
        client: FederationClient,
        changes: ProfileChanges,
        server_name: str,
        may_observe: MayObserve,
    ) -> None:
        self._database = database
        self._client = client
        self._changes = changes
        self._server_name = server_name
        self._may_observe = may_observe

    # Showing.

    async def whole(self, requester: Requester | None, user_id: str) -> dict[str, Any]:
        """All that somebody may see of a profile.

        :param requester: None for somebody unknown.
        :raises NotFound: there is no such user.
        :raises ServerUnreachable: the user's server does not answer.
        """
        user_id = canonical_user_id(user_id)
        if domain_of(user_id) != self._server_name:
            return await self._ask(user_id)
        shown = await self._database.read("profile", self._shown, _id_of(requester), user_id)
        return {told.field: told.value for told in shown}

    async def field(self, requester: Requester | None, user_id: str, field: str) -> dict[str, Any]:
        """One field of a profile, as an object; its user is told its visibility, too, where there is a choice.

        :raises NotFound: there is no such user or field; the same if one may not see it. But that a display name or an
            avatar is not set is no error.
        :raises ServerUnreachable: the user's server does not answer.
        """
        check_field(field)
        user_id = canonical_user_id(user_id)
        if domain_of(user_id) != self._server_name:
            return _only(await self._ask(user_id, field), field)
        shown = await self._database.read("profile", self._shown, _id_of(requester), user_id)
        said = _only({told.field: told.value for told in shown}, field)
        if field not in SHOWN and requester is not None and requester.user_id == user_id:
            said[VISIBILITY] = next(told.visibility for told in shown if told.field == field)
        return said

    async def public(self, user_id: str, field: str | None) -> dict[str, Any]:
        """What a user of this server lets everybody know: all, or one field; for another server.

        :raises NotFound: there is no such user or field.
        """
        user_id = canonical_user_id(user_id)
        if domain_of(user_id) != self._server_name:
            raise NotFound(f"{user_id} is not a user of this server.")
        return await (self.whole(None, user_id) if field is None else self.field(None, user_id, field))

    def _shown(self, txn: Transaction, observer: str | None, user_id: str) -> list[ProfileField]:
        if accounts.find(txn, user_id) is None:
            raise NotFound(f"There is no user {user_id} here.")
        told = profiles.fields(txn, user_id)
        if observer == user_id:
            return told
        opened = self._open_to(txn, observer, user_id, {one.visibility for one in told})
        return [one for one in told if one.visibility in opened]

    def _open_to(self, txn: Transaction, observer: str | None, user_id: str, used: Collection[str]) -> set[str]:
        """Which visibilities open a user's fields to somebody else.

        :param used: those that matter.
        """
        opened = {PUBLIC}
        if observer is None:
            return opened
        if SHARED_ROOMS in used and membership.share_a_room(txn, observer, user_id):
            opened.add(SHARED_ROOMS)
        if PRESENCE_LIST in used and self._may_observe(txn, observer, user_id):
            opened.add(PRESENCE_LIST)
        return opened

    async def _ask(self, user_id: str, field: str | None = None) -> dict[str, Any]:
        """Ask another server for the profile of a user of its own."""
        server = domain_of(user_id)
        wanted = {"user_id": user_id} | ({} if field is None else {"field": field})
        try:
            answer = await self._client.query(server, "profile", wanted)
        except RemoteRefusal as error:
            if error.status == 404:
                raise NotFound(f"{server} tells nothing of this of {user_id}.", reason=error.reason) from error
            raise
        try:
            return read_profile(answer)
        except (BadJson, TooLarge) as error:
            raise ServerUnreachable(server, f"its profile of {user_id}: {error.message}") from error

    # Changing.

    async def set(self, requester: Requester, user_id: str, field: str, value: object, visibility: object) -> None:
        """Set a field, or take it away if the value is nothing.

        :param visibility: None for what is usual.
        :raises Forbidden: it is somebody else's profile.
        :raises BadJson: the field cannot hold this.
        :raises TooLarge: it is too long, or there are too many fields.
        """
        check_field(field)
        user_id = canonical_user_id(user_id)
        if user_id != requester.user_id:
            raise Forbidden("One can change only one's own profile.")
        told = ProfileField(field, value, check_visibility(field, visibility))
        if is_nothing(field, value):
            await self._database.write("profile", self._delete, user_id, field)
            return
        check_value(field, value)
        await self._database.write("profile", self._put, user_id, told)

    def _put(self, txn: Transaction, user_id: str, told: ProfileField) -> None:
        present = {one.field: one for one in profiles.fields(txn, user_id)}
        if present.get(told.field) == told:
            return
        if told.field not in SHOWN and len(present.keys() - {*SHOWN, told.field}) >= MOST_FIELDS:
            raise TooLarge(f"A profile may not have more than {MOST_FIELDS} fields.")
        profiles.put(txn, user_id, told)
        if told.field in SHOWN:
            self._changes.begin(txn, user_id)

    def _delete(self, txn: Transaction, user_id: str, field: str) -> None:
        if not any(told.field == field for told in profiles.fields(txn, user_id)):
            return
        profiles.delete(txn, user_id, field)
        if field in SHOWN:
            self._changes.begin(txn, user_id)


def _id_of(requester: Requester | None) -> str | None:
    return requester.user_id if requester is not None else None


def _only(told: dict[str, Any], field: str) -> dict[str, Any]:
    if field not in told and field not in SHOWN:
        raise NotFound(f"There is no '{field}' in this profile, or not for you.")
    return {key: value for key, value in told.items() if key == field}
