"""Presence lists: what other servers say of them, and how long they may become (PRES-3, SEC-1, SEC-8)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from synapse_like.handlers import presence_lists as handlers
from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.presence_lists import AutoAccept, ListChange, PresenceLists
from synapse_like.protocol.errors import BadJson
from synapse_like.storage import accounts, presence_lists
from synapse_like.storage.database import Database
from synapse_like.storage.presence_lists import Entry
from synapse_like.storage.retransmissions import Once
from synapse_like.storage.transactions import Transaction
from tests.support.threads import ThreadBridge

ALICE, BOB = "@alice:here", "@bob:here"
ZOE = "@zoe:there"


class House:
    """The lists of a server where alice and bob live."""

    def __init__(self, database: Database, bridge: ThreadBridge) -> None:
        self.database = database
        self.bridge = bridge
        self.tokens: dict[str, int] = {}
        for user_id in (ALICE, BOB):
            self._do(database.write("user", accounts.create, user_id, password_hash=None, now_ms=1))
            token = user_id.encode()
            self.tokens[user_id] = self._do(database.write("token", accounts.add_token, user_id, token, now_ms=1))
        self.accepting("nobody")

    def accepting(self, auto_accept: AutoAccept) -> None:
        """Have a setting that accepts requests."""
        unused: Any = None
        self.lists = PresenceLists(self.database, unused, "here", auto_accept=auto_accept, federates=True)

    def hears(self, kind: str, observer: str, observed: str, origin: str = "there") -> None:
        """Another server says something: `invited`, `accepted` or `denied`."""
        content = {"observer_user": observer, "observed_user": observed}
        self._do(Deferred.fromCoroutine(getattr(self.lists, kind)(origin, content)))

    def change(self, user_id: str, **change: Any) -> None:
        """A user changes their list."""
        requester = Requester(user_id, self.tokens[user_id], False)
        once = Once(requester.token_id, None, 0)
        changed = self.lists.change(requester, user_id, ListChange(**change), once)
        self._do(Deferred.fromCoroutine(changed))

    def entries(self) -> set[tuple[str, str, bool]]:
        """All entries: observer, observed, and whether it is accepted."""

        def look(txn: Transaction) -> list[Any]:
            return txn.all("SELECT observer, observed, is_accepted FROM presence_lists")

        return {(row[0], row[1], bool(row[2])) for row in self._do(self.database.read("entries", look))}

    def said(self) -> list[tuple[str, str]]:
        """What waits for other servers: to whom, and of which kind."""
        rows = self._do(self.database.read("edus", lambda txn: txn.all("SELECT server, edu_type FROM outgoing_edus")))
        return [(row[0], row[1]) for row in rows]

    def put(self, *entry: Any) -> None:
        self._do(self.database.write("put", presence_lists.put, Entry(*entry)))

    def _do(self, work: Deferred[Any]) -> Any:
        found: list[Any] = []
        work.addCallbacks(found.append, found.append)
        self.bridge.pump(lambda: bool(found))
        if hasattr(found[0], "raiseException"):
            found[0].raiseException()
        return found[0]


@pytest.fixture
def house(database: Database, bridge: ThreadBridge) -> House:
    return House(database, bridge)


@pytest.mark.parametrize(
    ("kind", "observer", "observed", "origin"),
    [
        ("accepted", ALICE, ZOE, "there"),  # never asked for
        ("accepted", ALICE, ZOE, "elsewhere"),
        ("accepted", ALICE, BOB, "there"),
        ("accepted", ZOE, ALICE, "there"),
        ("denied", ALICE, BOB, "there"),
        ("denied", BOB, ZOE, "elsewhere"),
        ("denied", ZOE, ALICE, "there"),
        ("invited", ZOE, ALICE, "elsewhere"),
        ("invited", BOB, ALICE, "there"),
        ("invited", ZOE, "@zack:elsewhere", "there"),
        ("invited", ZOE, "@zack:there", "there"),
    ],
)
def test_servers_speak_for_their_own_users(house: House, kind: str, observer: str, observed: str, origin: str) -> None:
    """SEC-8."""
    house.put(ALICE, BOB, True)
    house.put(BOB, ZOE, False)
    before = house.entries()
    house.hears(kind, observer, observed, origin)
    assert house.entries() == before
    assert house.said() == []


def test_answer_that_was_asked_for_is_believed_and_can_be_taken_back(house: House) -> None:
    house.put(BOB, ZOE, False)
    for _ in range(2):
        house.hears("accepted", BOB, ZOE)
        assert house.entries() == {(BOB, ZOE, True)}
    house.hears("denied", BOB, ZOE)
    assert house.entries() == set()
    house.hears("accepted", BOB, ZOE)
    assert house.entries() == set()


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [("nobody", set()), ("local", set()), ("everyone", {(ZOE, ALICE, True)})],
)
def test_setting_says_whose_requests_from_elsewhere_are_accepted(
    house: House, setting: AutoAccept, accepted: set[tuple[str, str, bool]]
) -> None:
    house.accepting(setting)
    house.hears("invited", ZOE, ALICE)
    assert house.entries() == (accepted or {(ZOE, ALICE, False)})
    assert house.said() == ([("there", "m.presence_accept")] if accepted else [])


def test_one_server_does_not_take_all_the_places_of_requests(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-1, SEC-9."""
    monkeypatch.setattr(handlers, "MOST_REQUESTS_OF_ONE_SERVER", 3)
    monkeypatch.setattr(handlers, "MOST_REQUESTS", 5)
    for server in ("evil", "not-evil", "there"):
        for number in range(6):
            house.hears("invited", f"@user{number}:{server}", ALICE, server)
    waiting = sorted(observer.partition(":")[2] for observer, _, _ in house.entries())
    assert waiting == ["evil"] * 3 + ["not-evil"] * 2


def test_who_lets_everybody_in_lets_in_only_so_many(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-1: one server could fill the table."""
    monkeypatch.setattr(handlers, "MOST_OBSERVERS", 3)
    monkeypatch.setattr(handlers, "MOST_REQUESTS_OF_ONE_SERVER", 2)
    house.accepting("everyone")
    for number in range(10):
        house.hears("invited", f"@user{number}:evil", ALICE, "evil")
    assert sorted(is_accepted for _, _, is_accepted in house.entries()) == [False] * 2 + [True] * 3
    said = len(house.said())
    house.hears("invited", "@user0:evil", ALICE, "evil")
    assert len(house.said()) == said, "who is in is told so again, in the place of the first time"


@pytest.mark.parametrize("content", [{}, {"observer_user": 5, "observed_user": ALICE}, {"observer_user": "@a\0:there"}])
def test_nonsense_is_refused(house: House, content: dict[str, Any]) -> None:
    for hear in (house.lists.invited, house.lists.accepted, house.lists.denied):
        failed: list[Any] = []
        Deferred.fromCoroutine(hear("there", {"observed_user": ALICE, **content})).addErrback(failed.append)
        assert isinstance(failed[0].value, BadJson)


def test_request_that_is_dropped_before_it_went_out_does_not_go_out(house: House) -> None:
    """SEC-1: and one user does not fill the queues of ever more servers."""
    for number in range(5):
        house.change(ALICE, invite=[f"@zoe:server{number}"])
        house.change(ALICE, drop=[f"@zoe:server{number}"])
    house.change(ALICE, invite=[ZOE, "@zack:there"], drop=["@zack:there"])
    assert house.said() == [("there", "m.presence_invite")]
    assert house.entries() == {(ALICE, ZOE, False)}
