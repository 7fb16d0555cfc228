"""Copies in memory are bounded by what they weigh, and weigh about what they take."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from signedjson.key import generate_signing_key

from synapse_like.http.client.event_shape import event_v1
from synapse_like.protocol.building import build
from synapse_like.protocol.canonical_json import decode, encode
from synapse_like.protocol.events import EventDraft
from synapse_like.protocol.room_versions import ALL_RULES, RoomRules
from synapse_like.protocol.wire_formats import encode_pdu, read_pdu
from synapse_like.storage.caches import Cache, CacheKind, Caches
from synapse_like.storage.events import EVENTS, StoredEvent

#: Events whose memory is measured.
MANY = 100


def texts(most: int) -> Cache[str, str]:
    return Caches().of(CacheKind[str, str]("texts", most, weigh=len))


def held(cache: Cache[str, str], keys: str) -> str:
    """Those of some keys that are there."""
    return "".join(key for key in keys if cache.get(key) is not None)


def test_the_least_recently_used_copy_goes_first() -> None:
    cache = texts(6)
    for key in "abc":
        cache.keep(key, "xx")
    cache.get("a")
    cache.keep("d", "xx")
    assert held(cache, "abcd") == "acd"
    cache.keep("c", "xxxx")
    assert held(cache, "abcd") == "cd"


def test_as_much_is_held_as_the_bound_allows_whatever_was_replaced_and_forgotten() -> None:
    cache = texts(6)
    cache.keep("a", "xxxx")
    cache.keep("a", "xx")
    cache.keep("b", "xx")
    assert cache.fill() == (2, 4)
    cache.forget("a")
    cache.forget("a")
    assert cache.fill() == (1, 2)
    cache.keep("c", "xxxx")
    assert cache.fill() == (2, 6)
    cache.clear()
    assert cache.fill() == (0, 0)
    cache.keep("d", "xxxxxx")
    assert held(cache, "abcd") == "d"


def test_what_is_heavier_than_all_may_be_is_not_kept_and_drives_nothing_out() -> None:
    """The state of a very large room, for instance; an older copy of it would be wrong."""
    cache = texts(6)
    cache.keep("a", "xx")
    cache.keep("b", "xx")
    cache.keep("b", "xxxxxxx")
    assert held(cache, "ab") == "a"
    assert cache.fill() == (1, 2)


def fill_with_events(cache: Cache[int, StoredEvent], rules: RoomRules, *, are_shown: bool, are_read: bool) -> None:
    """Keep copies of many messages.

    :param are_shown: clients have read them.
    :param are_read: they come from the tables, not from our own users.
    """
    key = generate_signing_key("a")
    allowed_by = [f"${name * 20}:a.example" for name in "abc"]
    for number in range(MANY):
        asked = encode({"msgtype": "m.text", "body": f"This is message {number}, as long as messages mostly are."})
        content = decode(asked)
        assert isinstance(content, dict)
        event, pdu = build(
            rules,
            # As they come: each text for itself.
            EventDraft("".join("!room:a.example"), "".join("m.room.message"), "".join("@alice:a.example"), content),
            local_id=f"{number:020}",
            origin="a.example",
            origin_server_ts=2**40 + number,
            depth=1000 + number,
            prev_events=[f"${number:020}:a.example"],
            auth_events=allowed_by,
            replaces=None,
            power_level=0,
            key=key,
        )
        wire = encode_pdu(pdu)
        if are_read:
            again = decode(wire)
            assert isinstance(again, dict)
            event = read_pdu(rules, again, event.event_id)
        stored = StoredEvent(1000 + number, 7, 2**40 + number, event, size=len(wire))
        if are_shown:
            event_v1(stored, 2**40)
        cache.keep(stored.event_nid, stored)


@pytest.mark.parametrize("are_shown", [False, True], ids=["unseen", "shown"])
@pytest.mark.parametrize("are_read", [False, True], ids=["our-own", "read"])
@pytest.mark.parametrize("rules", [ALL_RULES[0], ALL_RULES[-1]], ids=lambda rules: str(rules.name))
def test_an_event_weighs_about_what_it_takes(rules: RoomRules, are_read: bool, are_shown: bool) -> None:
    cache = Caches().of(EVENTS)
    # What is made once only does not count.
    fill_with_events(Caches().of(EVENTS), rules, are_shown=are_shown, are_read=are_read)
    gc.collect()
    tracemalloc.start()
    try:
        fill_with_events(cache, rules, are_shown=are_shown, are_read=are_read)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    count, weight = cache.fill()
    assert count == MANY
    assert 0.7 < taken / weight < 1.3
