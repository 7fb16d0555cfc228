"""Presence lists: whom a user wants to see, and whom they let see them (PRES-3).

An entry begins as a request. Its answer comes from the observed user, or by itself: if they have the other on their own
list, or the settings accept all requests. Where the two live on different servers, each has the entry, and what one
does is told to the other by EDUs that are stored in the same transaction, so that they arrive even if that server is
down at the moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from synapse_like.federation.transactions import encode_edu
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.presence_persons import Persons
from synapse_like.handlers.streams import Json
from synapse_like.protocol.errors import BadJson, Forbidden, NotFound
from synapse_like.protocol.identifiers import canonical_user_id, domain_of
from synapse_like.storage import accounts, destinations, presence, presence_lists
from synapse_like.storage.database import Database
from synapse_like.storage.presence_lists import Entry
from synapse_like.storage.retransmissions import Once, Outcome, once
from synapse_like.storage.transactions import Transaction

INVITE = "m.presence_invite"
ACCEPT = "m.presence_accept"
DENY = "m.presence_deny"

AutoAccept = Literal["nobody", "local", "everyone"]

#: Users on one list, users named in one change.
MOST_ENTRIES = 1000
MOST_NAMED = 500
#: Requests that wait for one user, those of them from one other server, and observers that are let in without asking:
#: what is beyond is not heard of.
MOST_REQUESTS = 1000
MOST_REQUESTS_OF_ONE_SERVER = 200
MOST_OBSERVERS = 10_000
#: Groups of one user, and bytes of the name of one.
MOST_GROUPS = 100
LONGEST_NAME = 255


class ListChange(Struct, frozen=True):
    """What a user wants changed of their list.

    :ivar invite: whom they want to see.
    :ivar drop: whom they want to see no longer.
    :ivar accept: whom they let see them.
    :ivar deny: whom they do not, or no longer.
    :ivar groups: the new members of groups, by name; none to be rid of the group.
    """

    invite: Sequence[str] = ()
    drop: Sequence[str] = ()
    accept: Sequence[str] = ()
    deny: Sequence[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


class PresenceLists:
    """Keeps the lists.

    :param federates: whether users of other servers may be on them.
    """

    def __init__(
        self, database: Database, persons: Persons, server_name: str, *, auto_accept: AutoAccept, federates: bool
    ) -> None:
        self._database = database
        self._persons = persons
        self._server_name = server_name
        self._auto_accept = auto_accept
        self._federates = federates

    # What our users do.

    async def show(self, requester: Requester, user_id: str) -> list[Json]:
        """A user's list, with the presence of those who allow it.

        :raises Forbidden: it is somebody else's.
        """
        self._check_own(requester, user_id)
        entries, rows, groups = await self._database.read("presence-list", _read, requester.user_id)
        now_ms = self._persons.now_ms()
        shown = []
        for entry in entries:
            item: Json = {"user_id": entry.observed, "accepted": entry.is_accepted}
            if entry.is_accepted:
                item |= self._persons.told(entry.observed, rows.get(entry.observed)).status(now_ms)
            in_groups = [name for name, members in groups.items() if entry.observed in members]
            shown.append(item | ({"groups": in_groups} if in_groups else {}))
        return shown

    async def change(self, requester: Requester, user_id: str, change: ListChange, request: Once) -> None:
        """Change a user's list: all of it, or nothing.

        :raises Forbidden: it is somebody else's.
        :raises NotFound: there is no such user, or no such request.
        """
        self._check_own(requester, user_id)
        _check_size(change)
        await self._database.write(
            "change-presence-list", once, request, self._change, requester.user_id, _canonical(change)
        )

    def _check_own(self, requester: Requester, user_id: str) -> None:
        if canonical_user_id(user_id) != requester.user_id:
            raise Forbidden("This is somebody else's presence list.")

    def _change(self, txn: Transaction, user_id: str, change: ListChange) -> Outcome:
        # What can be refused comes before anything is written.
        self._check(txn, user_id, change)
        for observed in change.invite:
            self._invite(txn, user_id, observed)
        for observed in change.drop:
            if presence_lists.find(txn, user_id, observed) is not None:
                presence_lists.delete(txn, user_id, observed)
                # Nobody need be asked any more who has not been yet.
                destinations.withdraw_edu(txn, domain_of(observed), INVITE, _edu_key(user_id, observed))
        for observer in change.accept:
            self._accept(txn, observer, user_id)
        for observer in change.deny:
            if presence_lists.find(txn, observer, user_id) is not None:
                presence_lists.delete(txn, observer, user_id)
                self._tell(txn, DENY, observer, user_id, domain_of(observer))
        for name, members in change.groups.items():
            presence_lists.set_group(txn, user_id, name, members)
        return {}

    def _check(self, txn: Transaction, user_id: str, change: ListChange) -> None:
        for observed in change.invite:
            if not self._is_ours(observed):
                if not self._federates:
                    raise Forbidden("This server does not speak with other servers about presence.")
            elif accounts.find(txn, observed) is None:
                raise NotFound(f"There is no user {observed}.")
        if presence_lists.count_of(txn, user_id) + len(change.invite) > MOST_ENTRIES:
            raise Forbidden(f"A presence list may have at most {MOST_ENTRIES} users.")
        for observer in change.accept:
            if presence_lists.find(txn, observer, user_id) is None:
                raise NotFound(f"{observer} has not asked to see your presence.")
        groups = presence_lists.groups_of(txn, user_id).keys() | change.groups.keys()
        if len(groups) > MOST_GROUPS:
            raise BadJson(f"There may be at most {MOST_GROUPS} groups.")

    def _invite(self, txn: Transaction, observer: str, observed: str) -> None:
        entry = presence_lists.find(txn, observer, observed)
        if observer == observed or (entry is not None and entry.is_accepted):
            return
        if self._is_ours(observed):
            self._request(txn, observer, observed)
            return
        if entry is None:
            presence_lists.put(txn, Entry(observer, observed, is_accepted=False))
        self._tell(txn, INVITE, observer, observed, domain_of(observed))

    def _request(self, txn: Transaction, observer: str, observed: str) -> None:
        """One of our users is asked to be seen."""
        entry = presence_lists.find(txn, observer, observed)
        if entry is not None and entry.is_accepted:
            # Somebody has not heard of the answer.
            self._accept(txn, observer, observed)
            return
        server, ours = domain_of(observer), self._is_ours(observer)
        accepted, waiting, of_server = presence_lists.counts_of_observers(txn, observed, server=server)
        if self._accepts_by_itself(txn, observer, observed) and accepted < MOST_OBSERVERS:
            self._accept(txn, observer, observed)
        elif entry is None and waiting < MOST_REQUESTS and (ours or of_server < MOST_REQUESTS_OF_ONE_SERVER):
            presence_lists.put(txn, Entry(observer, observed, is_accepted=False))

    def _accepts_by_itself(self, txn: Transaction, observer: str, observed: str) -> bool:
        if self._auto_accept == "everyone" or (self._auto_accept == "local" and self._is_ours(observer)):
            return True
        return presence_lists.find(txn, observed, observer) is not None

    def _accept(self, txn: Transaction, observer: str, observed: str) -> None:
        entry = presence_lists.find(txn, observer, observed)
        if entry is None or not entry.is_accepted:
            presence_lists.put(txn, Entry(observer, observed, is_accepted=True))
        self._tell(txn, ACCEPT, observer, observed, domain_of(observer))

    def _is_ours(self, user_id: str) -> bool:
        return domain_of(user_id) == self._server_name

    def _tell(self, txn: Transaction, edu_type: str, observer: str, observed: str, server: str) -> None:
        """Tell another server what happened to an entry; it will hear of it, however long that takes."""
        if server != self._server_name and self._federates:
            content = {"observed_user": observed, "observer_user": observer}
            edu = encode_edu(self._server_name, server, edu_type, content)
            destinations.add_edu(txn, server, edu_type, _edu_key(observer, observed), edu)

    # What other servers say.

    async def invited(self, origin: str, content: Mapping[str, Any]) -> None:
        """A user of another server wants to see one of ours."""
        observer, observed = _named(content)
        if domain_of(observer) == origin and self._is_ours(observed):
            await self._database.write("presence-invite", self._invited, observer, observed)

    def _invited(self, txn: Transaction, observer: str, observed: str) -> None:
        if accounts.find(txn, observed) is None:
            self._tell(txn, DENY, observer, observed, domain_of(observer))
        else:
            self._request(txn, observer, observed)

    async def accepted(self, origin: str, content: Mapping[str, Any]) -> None:
        """A user of another server lets one of ours see them."""
        observer, observed = _named(content)
        if domain_of(observed) == origin and self._is_ours(observer):
            await self._database.write("presence-accepted", self._accepted, observer, observed)

    def _accepted(self, txn: Transaction, observer: str, observed: str) -> None:
        entry = presence_lists.find(txn, observer, observed)
        if entry is not None and not entry.is_accepted:
            presence_lists.put(txn, Entry(observer, observed, is_accepted=True))

    async def denied(self, origin: str, content: Mapping[str, Any]) -> None:
        """A user of another server does not let one of ours see them."""
        observer, observed = _named(content)
        if domain_of(observed) == origin and self._is_ours(observer):
            await self._database.write("presence-denied", self._denied, observer, observed)

    def _denied(self, txn: Transaction, observer: str, observed: str) -> None:
        if presence_lists.find(txn, observer, observed) is not None:
            presence_lists.delete(txn, observer, observed)


def _edu_key(observer: str, observed: str) -> str:
    """What makes an EDU take the place of another of its type that still waits."""
    return f"{observer} {observed}"


def _named(content: Mapping[str, Any]) -> tuple[str, str]:
    """The observer and the observed that an EDU names.

    :raises BadJson: it names none.
    """
    observer, observed = content.get("observer_user"), content.get("observed_user")
    if not isinstance(observer, str) or not isinstance(observed, str):
        raise BadJson("'observer_user' and 'observed_user' must name users.")
    return canonical_user_id(observer), canonical_user_id(observed)


def _check_size(change: ListChange) -> None:
    lists = [change.invite, change.drop, change.accept, change.deny, *change.groups.values()]
    if any(len(named) > MOST_NAMED for named in lists) or len(change.groups) > MOST_GROUPS:
        raise BadJson(f"At most {MOST_NAMED} users and {MOST_GROUPS} groups can be named at a time.")
    for name in change.groups:
        if not name or len(name.encode(errors="replace")) > LONGEST_NAME or "\0" in name:
            raise BadJson(f"The name of a group has 1 to {LONGEST_NAME} bytes, and no NUL.")


def _canonical(change: ListChange) -> ListChange:
    def users(named: Sequence[str]) -> Sequence[str]:
        return list(dict.fromkeys(canonical_user_id(user_id) for user_id in named))

    groups = {name: users(members) for name, members in change.groups.items()}
    return ListChange(users(change.invite), users(change.drop), users(change.accept), users(change.deny), groups)


Shown = tuple[list[Entry], dict[str, presence.StoredPresence], dict[str, list[str]]]


def _read(txn: Transaction, user_id: str) -> Shown:
    entries = presence_lists.of_observer(txn, user_id)
    seen = [entry.observed for entry in entries if entry.is_accepted]
    return entries, presence.of_users(txn, seen), presence_lists.groups_of(txn, user_id)
