"""What devices make of a person (PRES-1, PRES-2)."""

from __future__ import annotations

import orjson
import pytest

from synapse_like.handlers.presence_states import (
    ACTIVITY_STEP_MS,
    FREE_FOR_CHAT,
    HIDDEN,
    MOST_DEVICES,
    ONLINE,
    UNAVAILABLE,
    Device,
    Person,
    Told,
)
from synapse_like.storage.presence import OFFLINE, StoredPresence

NOW = 1_000_000_000


def person_with(*choices: str) -> Person:
    """A person with some devices that are there, each of which chose something."""
    person = Person("@alice:here", is_ours=True)
    for token_id, state in enumerate(choices, start=1):
        person.devices[token_id] = Device(streams=1)
        person.choose(token_id, state, None)
    person.settle(NOW)
    return person


@pytest.mark.parametrize(
    ("choices", "state"),
    [
        ((), OFFLINE),
        ((ONLINE,), ONLINE),
        ((UNAVAILABLE, ONLINE), ONLINE),
        ((FREE_FOR_CHAT, ONLINE, OFFLINE), FREE_FOR_CHAT),
        ((OFFLINE, UNAVAILABLE), UNAVAILABLE),
        ((ONLINE, HIDDEN), OFFLINE),
        ((HIDDEN, UNAVAILABLE), UNAVAILABLE),
    ],
)
def test_most_available_device_counts_and_the_last_word_on_hiding(choices: tuple[str, ...], state: str) -> None:
    assert person_with(*choices).state == state


def test_device_that_goes_counts_no_more() -> None:
    person = person_with(UNAVAILABLE, FREE_FOR_CHAT)
    person.leave(2)
    person.settle(NOW)
    assert person.state == UNAVAILABLE


def test_device_that_said_goodbye_comes_back_online() -> None:
    person = person_with(OFFLINE)
    person.leave(1)
    person.devices[1] = Device()
    person.settle(NOW)
    assert person.state == ONLINE


def test_only_becoming_more_available_is_an_activity() -> None:
    person = person_with(ONLINE)
    assert person.last_active == NOW
    person.told = person.now()
    person.choose(1, UNAVAILABLE, None)
    person.settle(NOW + 1000)
    assert person.last_active == NOW
    person.told = person.now()
    person.choose(1, FREE_FOR_CHAT, None)
    person.settle(NOW + 2000)
    assert person.last_active == NOW + 2000


def test_latest_activity_counts() -> None:
    person = person_with(ONLINE)
    person.was_active(NOW - 5000)
    assert person.last_active == NOW


def test_nobody_sees_what_somebody_hidden_does() -> None:
    person = person_with(HIDDEN)
    person.was_active(NOW + 1)
    person.status_msg = "secret"
    assert person.now().last_active is None
    assert "secret" not in str(person.now().status(NOW))
    assert person.own_status(NOW)["presence"] == HIDDEN
    assert person.own_status(NOW)["status_msg"] == "secret"


def test_activity_alone_is_told_rarely() -> None:
    person = person_with(ONLINE)
    person.told = person.now()
    person.was_active(NOW + ACTIVITY_STEP_MS - 1)
    assert not person.has_news
    person.was_active(NOW + ACTIVITY_STEP_MS)
    assert person.has_news


def test_what_the_tables_say_does_not_undo_what_is_newer() -> None:
    person = person_with(UNAVAILABLE)
    person.adopt(StoredPresence("@alice:here", 5, ONLINE, "old", NOW + 7, True, {"1": FREE_FOR_CHAT, "2": UNAVAILABLE}))
    person.settle(NOW)
    assert (person.state, person.status_msg, person.last_active) == (UNAVAILABLE, None, NOW + 7)
    assert person.choices == {"1": UNAVAILABLE, "2": UNAVAILABLE}


def test_choices_are_bounded() -> None:
    person = person_with(*[ONLINE] * (MOST_DEVICES + 5))
    assert len(person.choices) == MOST_DEVICES


def test_device_kind_is_shown_if_there_is_only_one() -> None:
    person = person_with(ONLINE, ONLINE)
    for device in person.devices.values():
        device.kind = "mobile"
    person.settle(NOW)
    assert person.now().status(NOW)["device_type"] == "mobile"
    person.devices[1].kind = None
    person.settle(NOW)
    assert "device_type" not in person.now().status(NOW)


@pytest.mark.parametrize(
    "said",
    [
        {"status_msg": 5, "last_active_ago": "x", "displayname": {}, "device_type": []},
        {"status_msg": None, "last_active_ago": -5, "avatar_url": None},
        {"status_msg": "x" * 10_000, "last_active_ago": 10**30},
    ],
)
def test_nonsense_of_other_servers_does_no_harm(said: dict[str, object]) -> None:
    person = Person("@bob:there", is_ours=False)
    person.hear(said, NOW)
    assert len(person.status_msg or "") <= 1000
    assert person.last_active is None or person.last_active >= 0
    assert person.profile == ()


@pytest.mark.parametrize("last_active", [None, 0, NOW - 5000, NOW + 5000])
def test_event_says_the_same_however_it_is_encoded(last_active: int | None) -> None:
    """It is encoded once for all who are told, and anew once something else is told."""
    person = Person('@alice"\\☕:here', is_ours=True)
    profile = (("displayname", 'A\0☕"'), ("avatar_url", "http://a"))
    for state in (ONLINE, UNAVAILABLE, OFFLINE):
        for told in (Told(state, 'Tea "☕"', "mobile", last_active, profile), Told(state, None, None, last_active)):
            person.told = told
            for now in (NOW, NOW + 1):
                assert orjson.loads(orjson.dumps(person.event(now))) == told.event(person.user_id, now)
