"""A queue for each destination (FED-3)."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred

from synapse_like.backoff import FIRST_RETRY_MS, JITTER, LONGEST_RETRY_MS
from synapse_like.federation.outbox import MOST_ANNOUNCED, MOST_PASSING_EDUS
from synapse_like.federation.sending import MOST_TO_FAILING, PASSING_EDU_MS, STOP_SECONDS, PassingEdusLost
from synapse_like.federation.transactions import MOST_EDUS, MOST_PDUS, position_of
from synapse_like.protocol.errors import BadParam, Unavailable
from synapse_like.storage import destinations, events, rooms
from synapse_like.storage.events import GAP
from synapse_like.storage.news import CommitInDoubt
from synapse_like.storage.transactions import Transaction
from tests.federation.queue_case import NOON, House

ROOM = "!room:here"
THERE = "there.example"
ELSEWHERE = "elsewhere.example"
FIRST_RETRY = FIRST_RETRY_MS / 1000
LONGEST_RETRY = LONGEST_RETRY_MS / 1000


@pytest.fixture
def room(house: House) -> str:
    """A room that is also on another server."""
    house.make_room(ROOM, THERE)
    return ROOM


def numbers(start: int, end: int) -> list[str]:
    return [str(n) for n in range(start, end)]


def stored(house: House, server: str = THERE) -> destinations.Destination:
    found: destinations.Destination = house.write(destinations.find, server)
    return found


def fail_until_the_fourth_try(house: House) -> None:
    """Three fail, each after its pause; the fourth is under way."""
    for pause in (1, 2, 4):
        house.fail()
        house.advance(pause)


# What is sent when.


def test_the_first_event_goes_out_at_once_and_with_all_that_a_transaction_tells(house: House, room: str) -> None:
    house.say(room, "hello")
    sent = house.last()
    assert sent.destination == THERE
    assert sent.said == ["hello"]
    assert sent.body == {
        "transaction_id": sent.transaction_id,
        "ts": NOON * 1000,
        "origin_server_ts": NOON * 1000,
        "origin": "here",
        "destination": THERE,
        "prev_ids": [],
        "pdus": sent.body["pdus"],
        "edus": [],
    }


def test_an_event_that_waits_is_read_when_it_goes(house: House, room: str) -> None:
    """It may have been redacted since."""
    house.say(room, "1")
    house.say(room, "a secret")
    house.write(strip, "a secret")
    house.accept()
    assert house.accept().said == ["stripped"]


def strip(txn: Transaction, text: str) -> None:
    [(event_nid, pdu)] = [row for row in txn.all("SELECT event_nid, pdu FROM events") if text.encode() in bytes(row[1])]
    stripped = bytes(pdu).replace(text.encode(), b"stripped")
    txn.execute("UPDATE events SET pdu = ? WHERE event_nid = ?", (stripped, event_nid))


def test_only_one_transaction_is_under_way_and_what_comes_meanwhile_goes_together(house: House, room: str) -> None:
    house.say(room, "1")
    house.say(room, "2")
    house.say(room, "3")
    assert house.accept().said == ["1"], "and nothing else was under way"
    assert house.accept().said == ["2", "3"]
    assert house.other.under_way == []


def test_a_transaction_names_the_one_before_it(house: House, room: str) -> None:
    house.say(room, "1")
    first = house.accept()
    house.say(room, "2")
    assert house.fail().body["prev_ids"] == [first.transaction_id]
    house.advance(FIRST_RETRY)
    again = house.accept()
    assert again.body["prev_ids"] == [first.transaction_id], "the one that failed was never taken"
    assert len({sent.transaction_id for sent in house.other.sent}) == 3


def test_many_events_go_in_order_and_at_most_fifty_at_once(house: House, room: str) -> None:
    house.say(room, "0")
    house.say(room, *numbers(1, 120))
    sizes, said = [], []
    while house.other.under_way:
        sent = house.accept()
        sizes.append(len(sent.said))
        said += sent.said
    assert said == numbers(0, 120)
    assert sizes == [1, MOST_PDUS, MOST_PDUS, 19]


def test_more_than_is_remembered_is_still_sent_in_order(house: House, room: str) -> None:
    house.say(room, "0")
    for start in range(1, MOST_ANNOUNCED + 101, 100):
        house.say(room, *numbers(start, start + 100))
    assert house.accept_all() == numbers(0, MOST_ANNOUNCED + 101)


def test_a_slow_destination_delays_no_other(house: House) -> None:
    house.make_room(ROOM, THERE, ELSEWHERE)
    house.say(ROOM, "1")
    house.accept(ELSEWHERE)
    house.say(ROOM, "2")
    house.accept(ELSEWHERE)
    house.fail(THERE)
    house.say(ROOM, "3")
    assert house.accept(ELSEWHERE).said == ["3"]
    assert house.other.under_way == []


def test_pdus_are_sent_as_they_are_stored_whatever_numbers_are_in_them(house: House, room: str) -> None:
    """The other side checks the signature over the JSON as it writes it; `OtherSide` looks at that."""
    house.say(room, "0")

    def give_them_numbers(txn: Transaction) -> None:
        rows = txn.all("SELECT event_nid FROM events ORDER BY place")
        pdus = [b'{"content":{"body":1e20}}', b'{"content":{"body":1180591620717411303425}}']
        for (nid,), pdu in zip(rows[1:], pdus, strict=True):
            txn.execute("UPDATE events SET pdu = ? WHERE event_nid = ?", (pdu, nid))

    house.say(room, "1", "2")
    house.write(give_them_numbers)
    house.accept()
    assert house.accept().said == [1e20, 2**70 + 1]


def test_an_event_that_was_purged_is_passed_over(house: House, room: str) -> None:
    house.say(room, "1")
    house.say(room, "2", "3")
    house.write(
        lambda txn: txn.execute(f"DELETE FROM events WHERE place < {GAP} * (SELECT MAX(place) / {GAP} FROM events)")
    )
    house.accept()
    assert house.accept().said == ["3"]


def test_servers_that_fail_take_no_place_from_those_that_are_well(house: House) -> None:
    house.make_room(ROOM, *(f"dead{n}.example" for n in range(MOST_TO_FAILING + 5)))
    house.make_room("!other:here", THERE)
    house.say(ROOM, "1")
    for sent in house.other.under_way:
        sent.fail()
    house.settle()
    house.without_place = 5
    house.advance(FIRST_RETRY)
    assert len(house.other.under_way) == MOST_TO_FAILING
    house.say("!other:here", "2")
    assert house.accept(THERE).said == ["2"]


# Stays.


def test_who_left_gets_what_made_them_leave_and_nothing_after_it(house: House, room: str) -> None:
    house.comes(room, ELSEWHERE)
    house.make_room("!other:here", THERE)
    house.say(room, "before", quietly=True)
    house.goes(room, THERE)
    house.say(room, "after", quietly=True)
    house.say("!other:here", "in another room", quietly=True)
    house.start()
    assert house.accept(THERE).said == ["before", "in another room"]


def test_who_came_later_gets_nothing_from_before(house: House, room: str) -> None:
    house.say(room, "before", quietly=True)
    house.comes(room, ELSEWHERE)
    house.say(room, "after", quietly=True)
    house.start()
    assert house.accept(ELSEWHERE).said == ["after"]
    assert house.accept(THERE).said == ["before", "after"]


def test_who_comes_again_gets_nothing_from_between(house: House, room: str) -> None:
    house.comes(room, ELSEWHERE)
    house.say(room, "1", quietly=True)
    house.goes(room, THERE)
    house.say(room, "2", quietly=True)
    house.comes(room, THERE)
    house.say(room, "3", quietly=True)
    house.start()
    assert house.accept(THERE).said == ["1", "3"]
    assert house.accept(ELSEWHERE).said == ["1", "2", "3"]


# Failures.


def test_pauses_double_from_a_second_to_an_hour(house: House, room: str) -> None:
    house.say(room, "1")
    house.fail()
    pause = FIRST_RETRY
    while pause < LONGEST_RETRY * 2:
        expected = min(pause, LONGEST_RETRY)
        house.advance(expected - 0.001)
        assert house.other.under_way == [], f"too early, pause {expected}"
        house.advance(0.002)
        assert house.fail().said == ["1"], f"late, pause {expected}"
        pause *= 2


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_chance_shortens_a_pause_by_a_quarter_at_the_most(house: House, room: str, chance: float) -> None:
    house.chance = chance
    house.say(room, "1")
    house.fail()
    expected = int(FIRST_RETRY_MS * (1 - JITTER * chance)) / 1000
    house.advance(expected - 0.002)
    assert house.other.under_way == []
    house.advance(0.004)
    assert len(house.other.under_way) == 1


def test_a_success_ends_the_pauses(house: House, room: str) -> None:
    house.say(room, "1")
    fail_until_the_fourth_try(house)
    house.accept()
    house.say(room, "2")
    house.fail()
    house.advance(FIRST_RETRY)
    assert house.last().said == ["2"]


def test_what_comes_during_a_pause_waits_and_goes_in_order(house: House, room: str) -> None:
    house.say(room, "1")
    house.fail()
    house.say(room, "2")
    house.say(room, "3")
    assert house.other.under_way == []
    assert house.queues.states()[THERE].doing == "waiting"
    house.advance(FIRST_RETRY)
    assert house.accept_all() == ["1", "2", "3"]


@pytest.mark.parametrize("status", [401, 404, 500, 502])
def test_refusals_that_are_not_about_the_content_are_failures(house: House, room: str, status: int) -> None:
    house.say(room, "1")
    house.refuse(status)
    assert house.other.under_way == []
    house.advance(FIRST_RETRY)
    assert house.accept().said == ["1"]


def test_a_server_that_wants_us_to_wait_is_left_alone_for_so_long(house: House, room: str) -> None:
    house.say(room, "1")
    house.refuse(429, retry_after_ms=30_000)
    house.advance(29.9)
    assert house.other.under_way == []
    house.advance(0.2)
    house.refuse(429, retry_after_ms=10**15)
    house.advance(LONGEST_RETRY)
    assert house.accept().said == ["1"], "nobody makes us wait for ever"


def test_a_server_that_is_heard_from_is_tried_at_once(house: House, room: str) -> None:
    house.say(room, "1")
    fail_until_the_fourth_try(house)
    house.fail()
    house.advance(2)
    house.queues.heard_from(THERE)
    house.settle()
    assert house.fail().said == ["1"]
    house.advance(FIRST_RETRY)
    house.accept()


def test_a_server_that_talks_but_cannot_be_reached_is_tried_once_a_second_at_the_most(house: House, room: str) -> None:
    house.say(room, "1")
    fail_until_the_fourth_try(house)
    house.fail()
    begun = len(house.other.sent)
    for _ in range(30):
        house.queues.heard_from(THERE)
        house.advance(0.1)
        for sent in house.other.under_way:
            sent.fail()
        house.settle()
    assert 2 <= len(house.other.sent) - begun <= 3


def test_when_one_can_be_reached_again_those_that_failed_with_it_are_tried_at_once(house: House) -> None:
    """FED-3: after our own line was cut for hours, each was tried when its own hour was over."""
    long_dead = "dead.example"
    house.make_room("!dead:here", long_dead)
    house.say("!dead:here", "anybody?")
    house.fail()
    for pause in (1, 2, 4, 8, 16, 32, 64):
        house.advance(pause)
        house.fail()
    house.make_room(ROOM, THERE, ELSEWHERE)
    house.say(ROOM, "1")
    for pause in (1, 2, 4, 2):
        for server in {sent.destination for sent in house.other.under_way}:
            house.fail(server)
        house.advance(pause)
    assert house.other.under_way == []
    house.queues.heard_from(ELSEWHERE)
    house.settle()
    house.accept(ELSEWHERE)
    house.advance(0.001)
    assert [sent.destination for sent in house.other.under_way] == [THERE]
    house.fail(THERE)
    house.advance(15.9)
    assert house.other.under_way == [], "it is left alone for longer than before"
    house.advance(0.2)
    assert house.accept(THERE).said == ["1"]


def test_the_operator_can_have_a_server_tried_at_once(house: House, room: str) -> None:
    house.say(room, "1")
    fail_until_the_fourth_try(house)
    house.fail()
    house.saved()
    assert house.write(destinations.ask_retry, THERE) == 1
    house.wait_for(Deferred.fromCoroutine(house.queues.look_again()))
    house.settle()
    assert house.fail().said == ["1"]
    assert house.write(destinations.retries_asked) == [], "it is asked for once"


def test_an_event_refused_by_itself_is_not_sent_again(house: House, room: str) -> None:
    house.say(room, "1")
    house.last().accept({"pdus": {"$1": {"error": "No."}, "$2": {}, "$3": 7}})
    house.settle()
    house.say(room, "2")
    assert house.last().said == ["2"]


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("status", [400, 403, 413])
def test_of_a_refused_transaction_only_what_is_to_blame_is_left_out(
    house: House, room: str, status: int, *, is_announced: bool
) -> None:
    house.say(room, "first")
    house.say(room, *numbers(0, 40), quietly=not is_announced)
    if not is_announced:
        house.news.publish(CommitInDoubt())
    house.accept()
    taken = []
    for _ in range(100):
        if not house.other.under_way:
            break
        sent = house.last()
        if "33" in sent.said:
            house.refuse(status)
        else:
            taken += house.accept().said
    assert taken == [n for n in numbers(0, 40) if n != "33"]
    house.say(room, "last")
    assert house.accept().said == ["last"]


def test_a_server_that_refuses_even_nothing_loses_nothing(house: House, room: str) -> None:
    house.say(room, "1")
    house.refuse(403)
    assert house.last().body["pdus"] == []
    house.refuse(403)
    assert house.other.under_way == []
    house.advance(FIRST_RETRY)
    assert house.accept().said == ["1"]


def test_an_edu_that_is_refused_is_left_out_too(house: House, room: str) -> None:
    house.say(room, "1")
    house.send_edu(THERE, {"bad": 1}, lasting=True)
    house.send_edu(THERE, {"good": 1})
    house.accept()
    taken: list[Any] = []
    while house.other.under_way:
        if {"bad": 1} in house.last().edus:
            house.refuse(400)
        else:
            taken += house.accept().edus
    assert taken == [{"good": 1}]


# Stopping, being killed, starting.


def test_after_an_outage_thousands_are_sent_in_order(house: House, room: str) -> None:
    house.make_room("!other:here", ELSEWHERE)
    for start in range(0, 2000, 200):
        house.say(room, *numbers(start, start + 200), quietly=True)
        house.say("!other:here", *(["x"] * 200), quietly=True)
    house.start()
    said, most = [], 0
    while house.other.under_way:
        sent = house.accept(house.other.under_way[0].destination)
        if sent.destination == THERE:
            said += sent.said
            most = max(most, len(sent.said))
    assert said == numbers(0, 2000)
    assert most == MOST_PDUS


def test_long_silences_are_passed_over(house: House, room: str) -> None:
    house.make_room("!other:here", ELSEWHERE)
    for n in range(3):
        house.say(room, str(n), quietly=True)
        house.say("!other:here", *(["x"] * 1000), quietly=True)
    house.start()
    assert house.accept(THERE).said == ["0", "1", "2"]


def test_a_stopped_server_goes_on_where_it_was(house: House, room: str) -> None:
    house.say(room, "1")
    house.accept()
    house.restart(killed=False)
    assert house.other.under_way == []
    house.say(room, "2")
    assert house.last().said == ["2"]


def test_a_server_stops_in_good_order_without_its_database(
    house: House, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not written down is sent again."""
    house.say(room, "1")
    stopped = house.stop()
    monkeypatch.setattr(house.database, "write", Mock(side_effect=Unavailable("Not now.", reason="it is gone")))
    house.accept()
    house.wait_for(stopped)
    assert house.database.write.called
    monkeypatch.undo()
    house.restart(killed=True)
    assert house.accept_all() == ["1"]


def test_what_was_under_way_when_we_stopped_is_sent_again(house: House, room: str) -> None:
    house.say(room, "1")
    stopped = house.stop()
    house.say(room, "2")
    house.time.advance(STOP_SECONDS)
    house.wait_for(stopped)
    house.restart(killed=True)
    assert house.accept_all() == ["1", "2"]


def test_stopping_waits_for_what_is_under_way_and_begins_nothing(house: House, room: str) -> None:
    house.say(room, "1")
    house.say(room, "2")
    stopped = house.stop()
    assert not stopped.called
    house.last().accept()
    house.wait_for(stopped)
    assert house.other.under_way == []
    house.restart(killed=True)
    assert house.accept_all() == ["2"]


def test_killed_between_the_answer_and_writing_it_down_repeats_and_loses_nothing(house: House, room: str) -> None:
    house.say(room, "1")
    house.saved()
    house.accept()
    assert stored(house).sent_up_to == 0
    house.say(room, "2", quietly=True)
    house.restart(killed=True)
    assert house.accept_all() == ["1", "2"]


def test_a_second_after_the_answer_it_is_written_down(house: House, room: str) -> None:
    house.say(room, "1")
    sent = house.accept()
    house.saved()
    assert stored(house).sent_up_to == position_of(sent.transaction_id)
    assert stored(house).last_transaction == sent.transaction_id
    house.restart(killed=True)
    assert house.other.under_way == []


def test_a_pause_outlives_the_server(house: House, room: str) -> None:
    house.say(room, "1")
    fail_until_the_fourth_try(house)
    house.fail()
    house.saved()
    house.restart(killed=True)
    house.say(room, "2")
    house.advance(6.9)
    assert house.other.under_way == []
    house.advance(0.2)
    assert house.fail().said == ["1", "2"]
    house.advance(15.9)
    assert house.other.under_way == []
    house.advance(0.2)
    house.accept()
    house.saved()
    assert stored(house).failing_since is None


def test_a_server_that_failed_before_the_start_can_be_heard_from(house: House, room: str) -> None:
    house.say(room, "1")
    fail_until_the_fourth_try(house)
    house.fail()
    house.saved()
    house.restart(killed=True)
    house.queues.heard_from(THERE)
    house.settle()
    assert house.accept().said == ["1"]


def test_what_may_have_been_committed_unannounced_is_looked_for(house: House, room: str) -> None:
    house.say(room, "1")
    house.accept()
    house.say(room, "2", quietly=True)
    house.news.publish(CommitInDoubt())
    house.bridge.pump(lambda: bool(house.other.under_way))
    assert house.accept().said == ["2"]


def test_a_transaction_id_tells_how_far_its_receiver_is(house: House, room: str) -> None:
    house.say(room, "1")
    house.say(room, "2", "3")
    house.accept()
    position = house.write(lambda txn: events.current_position(txn))
    assert position_of(house.accept().transaction_id) == position
    for made_up in ("", "1", "-x", "1-", "x-y", "9" * 19 + "-x", "1-x\n"):
        with pytest.raises(BadParam):
            position_of(made_up)


# EDUs.


def test_edus_go_after_the_events_and_at_most_a_hundred_at_once(house: House, room: str) -> None:
    house.say(room, "0")
    for n in range(120):
        house.send_edu(THERE, {"n": n})
    house.say(room, "1")
    house.accept()
    sent = house.accept()
    assert (sent.said, sent.edus) == (["1"], [{"n": n} for n in range(MOST_EDUS)])
    assert sent.body["edus"][0] == {
        "edu_type": "m.test",
        "origin": "here",
        "destination": THERE,
        "content": {"n": 0},
    }
    assert house.accept().edus == [{"n": n} for n in range(MOST_EDUS, 120)]


@pytest.mark.parametrize("lasting", [False, True])
def test_newer_edus_take_the_place_of_older_ones_of_the_same_key(house: House, room: str, lasting: bool) -> None:
    house.say(room, "1")
    house.send_edu(THERE, {"old": 1}, key="a", lasting=lasting)
    house.send_edu(THERE, {"other": 1}, key="b", lasting=lasting)
    house.send_edu(THERE, {"new": 1}, key="a", lasting=lasting)
    house.accept()
    assert house.accept().edus == [{"other": 1}, {"new": 1}]


def test_an_edu_that_comes_while_an_older_one_is_under_way_is_sent(house: House) -> None:
    house.send_edu(THERE, {"old": 1}, key="a")
    house.send_edu(THERE, {"new": 1}, key="a")
    assert house.accept().edus == [{"old": 1}]
    assert house.accept().edus == [{"new": 1}]
    assert house.other.under_way == []


def test_too_many_waiting_edus_push_out_the_oldest(house: House, room: str) -> None:
    house.say(room, "1")
    lost: list[PassingEdusLost] = []
    house.news.subscribe(PassingEdusLost, lost.append)
    for n in range(MOST_PASSING_EDUS + 3):
        house.send_edu(THERE, {"n": n})
    house.accept()
    assert house.accept().edus[0] == {"n": 3}
    assert lost == [PassingEdusLost(THERE)] * 3


def test_lasting_edus_outlive_the_server_and_are_forgotten_once_taken(house: House) -> None:
    house.send_edu(THERE, {"n": 1}, lasting=True)
    house.send_edu(THERE, {"n": 2}, lasting=True)
    house.restart(killed=True)
    assert house.accept().edus == [{"n": 1}, {"n": 2}]
    house.saved()
    assert house.write(lambda txn: txn.all("SELECT * FROM outgoing_edus")) == []


def test_other_edus_are_dropped_after_a_minute_of_failures(house: House) -> None:
    lost: list[PassingEdusLost] = []
    house.news.subscribe(PassingEdusLost, lost.append)
    house.send_edu(THERE, {"passing": 1})
    house.send_edu(THERE, {"lasting": 1}, lasting=True)
    while house.time.seconds() < NOON + PASSING_EDU_MS / 1000:
        for sent in house.other.under_way:
            sent.fail()
        house.settle()
        house.advance(1)
    waiting = house.queues.states()[THERE].passing_edus
    house.send_edu(THERE, {"late": 1})
    assert house.queues.states()[THERE].passing_edus == waiting
    assert lost == [PassingEdusLost(THERE)]
    house.queues.heard_from(THERE)
    house.advance(FIRST_RETRY)
    assert house.accept().edus == [{"lasting": 1}]
    assert lost == [PassingEdusLost(THERE)] * (2 if waiting else 1), "what waited, and what came too late"
    house.send_edu(THERE, {"well": 1})
    assert house.accept().edus == [{"well": 1}]


def test_what_waits_and_for_how_long_can_be_asked(house: House, room: str) -> None:
    house.say(room, "1")
    house.time.advance(3)
    state = house.queues.states()[THERE]
    assert (state.doing, state.behind_seconds) == ("sending", 3)
    house.accept()
    state = house.queues.states()[THERE]
    assert (state.doing, state.behind_seconds) == ("idle", 0)


def test_steady_sending_reads_nothing_but_the_events(house: House, room: str) -> None:
    """However many rooms another server shares with us, it is not searched for what waits."""
    house.say(room, "1")
    house.accept()
    before = house.database.statistics.reads
    house.say(room, "2")
    assert house.database.statistics.reads == before, "what goes at once is at hand"
    house.say(room, "3", "4")
    assert house.accept_all() == ["2", "3", "4"]
    assert house.database.statistics.reads == before + 1
    assert house.write(lambda txn: rooms.find(txn, room)) is not None
