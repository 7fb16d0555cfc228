"""The rules of the Matrix room versions, held against a second reading of the specification.

Single rules with their versions stand in the tests of membership, power levels and third-party invites.
"""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from synapse_like.protocol.authorisation import (
    auth_events_for,
    auth_types_for,
    authorise,
    claimed_state,
    redaction_applies,
)
from synapse_like.protocol.errors import AuthError
from synapse_like.protocol.events import Event, EventDraft
from synapse_like.protocol.power_levels import PowerLevels
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V1, V2, V3, V6, V8, V11, V12, RoomRules
from tests.protocol import literal_rules
from tests.protocol.refusals import refusal_of
from tests.protocol.room import ALICE, BOB, CAROL, DAVE, ROOM_ID, VERSIONS, Room, since, until
from tests.protocol.strategies import any_values, contents

USERS = (ALICE, BOB, CAROL, DAVE)
MEMBERSHIPS = ("none", "invite", "join", "join", "leave", "ban", "knock")
JOIN_RULES = ("public", "invite", "knock", "private", "restricted", "knock_restricted", "org.example.other")
SOME_LEVELS = (0, 1, 49, 50, 51, 99, 100, 101)
VOUCHER = "join_authorised_via_users_server"
HASH = "y" * 43
TOKEN = "secret"


def seldom(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The one, and once in a while the other."""
    return st.integers(0, 7).flatmap(lambda die: odd if die == 3 else usual)


users = st.sampled_from(USERS)
memberships_now = st.sampled_from(MEMBERSHIPS)
levels = st.sampled_from(SOME_LEVELS)
odd_levels = st.sampled_from(
    ("50", " +0100 ", "-1", 49.9, -0.5, "x", "", None, True, [], 2**53, 2**70, "9" * 17, "9" * 310, "٥", 1e300)
)
any_levels = seldom(levels, odd_levels)


def power_levels(level: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    groups = {
        "users": st.dictionaries(users | st.just("@old user:a.example"), level, max_size=4),
        "events": st.dictionaries(st.sampled_from(["m.room.topic", "m.room.message", "m.room.name"]), level),
        "notifications": st.dictionaries(st.sampled_from(["room", "me"]), level),
    }
    return st.fixed_dictionaries({}, optional=groups | dict.fromkeys(literal_rules.DEFAULTS, level))


EVENT_TYPES = ("m.room.message", "m.room.topic", "m.room.aliases", "m.room.redaction", "m.room.third_party_invite")


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    """A room of any version, in any state that could be."""
    version = draw(st.integers(1, 12))
    rules = VERSIONS[version - 1]
    creation: dict[str, Any] = draw(seldom(st.just({}), st.sampled_from([{"m.federate": False}, {"m.federate": None}])))
    if version == 12:
        creation = creation | draw(st.sampled_from([{}, {"additional_creators": [BOB]}]))
    room = Room(rules=rules, creation=creation)
    for user in USERS:
        membership = draw(seldom(st.just("join"), memberships_now)) if user == ALICE else draw(memberships_now)
        room.member(user, membership if membership != "knock" or version >= 7 else "none")
    if draw(st.booleans()):
        room.state["m.room.join_rules", ""] = room.unchecked(
            "m.room.join_rules", draw(join_rules), state_key="", sender=ALICE
        )
    if draw(st.booleans()):
        levels_in = power_levels(levels if version >= 10 else levels | st.sampled_from(["50", " +0100 "]))
        content = draw(levels_in.filter(lambda said: version < 12 or not {ALICE, BOB} & said.get("users", {}).keys()))
        room.put("m.room.power_levels", content)
    if draw(st.booleans()):
        room.put("m.room.third_party_invite", ADDRESS, TOKEN, sender=draw(users))
    return room


join_rules = st.sampled_from(
    [{}, {"join_rule": None}, {"join_rule": []}, *({"join_rule": rule} for rule in JOIN_RULES)]
)
ADDRESS = {"display_name": "a…@example.com", "key_validity_url": "https://id.example/", "public_key": "AAAA"}


memberships = st.sampled_from(["invite", "invite", "join", "join", "leave", "leave", "ban", "ban", "knock"])
vouchers = seldom(users, st.sampled_from(["bob", None, 7]))
claims = st.fixed_dictionaries({"mxid": users, "token": st.just(TOKEN)}).map(lambda signed: {"signed": signed})
odd_claims = st.sampled_from([{}, None, {"signed": {"token": TOKEN}}, {"signed": {"mxid": BOB, "token": []}}])


@st.composite
def member_contents(draw: st.DrawFn) -> dict[str, Any]:
    """What somebody wants to be, with a word of a member or of an identity server now and then."""
    content = {"membership": draw(seldom(memberships, st.sampled_from(["kick", "", None])))}
    if content["membership"] == "join" and draw(st.booleans()):
        content[VOUCHER] = draw(vouchers)
    if content["membership"] == "invite" and draw(st.booleans()):
        content["third_party_invite"] = draw(seldom(claims, odd_claims))
    return content


@st.composite
def attempts(draw: st.DrawFn, room: Room) -> Event:
    """Something that somebody tries in it."""
    sender = draw(users)
    create_id = room.state["m.room.create", ""].event_id
    prev_events = draw(st.sampled_from([(create_id,), ("$latest:a.example",), (create_id, "$latest:a.example")]))
    fields: dict[str, Any] = {"sender": sender, "prev_events": prev_events}
    kind = draw(st.sampled_from(["member", "member", "levels", "other"]))
    if kind == "member":
        key = draw(seldom(st.sampled_from([sender, *USERS]), st.none()))
        return room.unchecked("m.room.member", draw(seldom(member_contents(), contents)), state_key=key, **fields)
    if kind == "levels":
        fields["sender"] = draw(st.sampled_from([ALICE, ALICE, sender]))
        known = room.state.get(("m.room.power_levels", ""))
        said = draw(seldom(power_levels(any_levels), st.sampled_from([{"users": 1}, {"events": []}])))
        content = {**(known.content if known is not None else {}), **said}
        return room.unchecked("m.room.power_levels", content, state_key=draw(st.sampled_from(["", "", "x"])), **fields)
    key = draw(st.sampled_from([None, "", *USERS, "a.example", "b.example"]))
    event_type = draw(st.sampled_from(EVENT_TYPES))
    if event_type == "m.room.redaction":
        fields["redacts"] = draw(st.sampled_from(["$x:a.example", "$x:b.example", f"${HASH}", None]))
    return room.unchecked(event_type, {}, state_key=key, **fields)


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_every_verdict_is_that_of_the_specification(data: st.DataObject) -> None:
    room = data.draw(rooms())
    event = data.draw(attempts(room))
    assert room.allows(event) == literal_rules.allows(int(room.rules.name), event, room.state)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_first_event_is_judged_as_the_specification_says(data: st.DataObject) -> None:
    room = Room(rules=data.draw(st.sampled_from(VERSIONS)))
    version = int(room.rules.name)
    options: dict[str, st.SearchStrategy[Any]] = {
        "creator": st.sampled_from([ALICE, BOB, None, []]),
        "room_version": st.sampled_from([str(version), str(version), "99", "1", None, version]),
        "additional_creators": st.sampled_from([[], [BOB], [BOB, "@x y:a.example"], ["bob"], [None], BOB, None, {}]),
    }
    event = room.unchecked(
        "m.room.create",
        data.draw(st.fixed_dictionaries({}, optional=options)),
        state_key=data.draw(st.sampled_from(["", "", "", "x", None])),
        sender=data.draw(st.sampled_from([ALICE, ALICE, BOB])),
        prev_events=data.draw(st.sampled_from([(), (), ("$x:a.example",)])),
    )
    room.state = data.draw(st.sampled_from([{}, {}, room.state]))
    allowed = refusal_of(authorise, room.rules, event, room.state) is None
    assert allowed == literal_rules.allows(version, event, room.state)


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
def test_an_ordinary_room_can_be_begun(rules: RoomRules) -> None:
    room = Room(rules=rules)
    create = room.state.pop(("m.room.create", ""))
    del room.state["m.room.member", ALICE]
    assert room.allows(room.event("m.room.create", {**create.content, "room_version": rules.name}, ""))
    room.state[create.state_slot] = create
    first_join = room.event("m.room.member", {"membership": "join"}, ALICE, prev_events=(create.event_id,))
    assert room.allows(first_join)
    room.state[first_join.state_slot] = first_join
    for event_type, content in (
        ("m.room.power_levels", {"users": {} if rules.creators_above_all else {ALICE: 100}, "users_default": 0}),
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.history_visibility", {"history_visibility": "shared"}),
        ("m.room.name", {"name": "Pub"}),
    ):
        event = room.event(event_type, content, "")
        assert room.allows(event)
        room.state[event.state_slot] = event
    bob = room.event("m.room.member", {"membership": "join"}, BOB, sender=BOB)
    assert room.allows(bob)
    room.state[bob.state_slot] = bob
    assert room.allows(room.event("m.room.message", {"msgtype": "m.text", "body": "hello"}, sender=BOB))


@given(
    st.sampled_from(ALL_RULES),
    st.sampled_from(["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", *EVENT_TYPES]),
    st.dictionaries(
        st.sampled_from(
            ["membership", "users", "creator", "additional_creators", "third_party_invite", VOUCHER, "default", ALICE]
        ),
        any_values,
    ),
    st.none() | st.sampled_from(["", ALICE, BOB, "x"]),
    users,
)
@example(SPEC_2014, "m.room.power_levels", {"@x": 1}, "", ALICE)
@example(V12, "m.room.member", {"membership": "invite", "third_party_invite": {"signed": {"token": []}}}, BOB, ALICE)
def test_no_event_is_met_otherwise_than_by_a_verdict(
    rules: RoomRules, event_type: str, content: dict[str, Any], state_key: str | None, sender: str
) -> None:
    room = Room(rules=rules)
    event = room.unchecked(event_type, content, state_key=state_key, sender=sender)
    error = refusal_of(authorise, rules, event, room.state)
    assert error is None or isinstance(error, AuthError)
    auth_types_for(rules, event)


class TestClosedRooms:
    """m.federate ("Authorization rules", 4 of room version 12)."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    @pytest.mark.parametrize(("federate", "allowed"), [(False, False), (True, True), (None, True), (0, True)])
    def test_only_users_of_the_creators_server_enter(self, rules: RoomRules, federate: object, allowed: bool) -> None:
        room = Room(rules=rules, creation={"m.federate": federate})
        room.join_rule("public")
        bob = room.event("m.room.member", {"membership": "join"}, BOB, sender=BOB)
        assert room.allows(bob) == allowed
        assert room.allows(room.event("m.room.member", {"membership": "join"}, DAVE, sender=DAVE))

    def test_refusal_says_why(self) -> None:
        room = Room(rules=V1, creation={"m.federate": False})
        room.refuses(room.event("m.room.member", {"membership": "join"}, BOB, sender=BOB), "closed to other servers")

    def test_in_2014_rooms_cannot_be_closed(self) -> None:
        room = Room(creation={"m.federate": False})
        room.join_rule("public")
        assert room.allows(room.event("m.room.member", {"membership": "join"}, BOB, sender=BOB))


class TestAliases:
    """m.room.aliases ("Authorization rules", 4 of room version 1; gone since 6)."""

    @pytest.mark.parametrize("rules", until(5), ids=lambda rules: rules.name)
    def test_server_tells_its_own_from_outside_too(self, rules: RoomRules) -> None:
        room = Room(rules=rules)
        assert room.allows(room.unchecked("m.room.aliases", {}, state_key="b.example", sender=BOB))
        room.refuses(room.unchecked("m.room.aliases", {}, state_key="a.example", sender=BOB), "only its own aliases")
        room.refuses(room.unchecked("m.room.aliases", {}, sender=BOB), "only its own aliases")

    @pytest.mark.parametrize("rules", since(6), ids=lambda rules: rules.name)
    def test_later_they_are_state_like_any_other(self, rules: RoomRules) -> None:
        room = Room(rules=rules)
        assert room.allows(room.unchecked("m.room.aliases", {}, state_key="b.example"))
        room.refuses(room.unchecked("m.room.aliases", {}, state_key="b.example", sender=BOB), "not in this room")


class TestRedactions:
    """m.room.redaction ("Authorization rules", 11 of room version 1; "Handling redactions" since 3)."""

    @staticmethod
    def redaction(room: Room, target: str | None) -> Event:
        content = {"redacts": target} if room.rules.redacts_in_content else {}
        return room.event("m.room.redaction", content, sender=BOB, redacts=target)

    @staticmethod
    def room(rules: RoomRules, bob: int) -> Room:
        room = Room({"users": {BOB: bob}, "redact": 30}, rules)
        room.member(BOB, "join")
        return room

    @pytest.mark.parametrize("rules", [V1, V2], ids=lambda rules: rules.name)
    @pytest.mark.parametrize(("level", "target", "allowed"), [(29, "a", False), (30, "a", True), (0, "b", True)])
    def test_until_version_2_they_take_the_level_or_the_same_server(
        self, rules: RoomRules, level: int, target: str, allowed: bool
    ) -> None:
        room = self.room(rules, level)
        assert room.allows(self.redaction(room, f"$x:{target}.example")) == allowed

    @pytest.mark.parametrize("rules", [V1, V2], ids=lambda rules: rules.name)
    @pytest.mark.parametrize("target", [None, f"${HASH}"])
    def test_until_version_2_those_that_name_no_server_take_the_level(
        self, rules: RoomRules, target: str | None
    ) -> None:
        """They were redacted themselves, or name nothing that is there."""
        assert self.room(rules, 30).allows(self.redaction(self.room(rules, 30), target))
        self.room(rules, 29).refuses(self.redaction(self.room(rules, 29), target), "power level 30 to redact")

    @pytest.mark.parametrize("rules", since(3), ids=lambda rules: rules.name)
    @pytest.mark.parametrize(
        ("level", "sender", "applies"),
        [(0, ALICE, False), (29, ALICE, False), (30, ALICE, True), (0, "@x:b.example", True)],
    )
    def test_since_version_3_all_are_said_and_not_all_are_done(
        self, rules: RoomRules, level: int, sender: str, applies: bool
    ) -> None:
        room = self.room(rules, level)
        redaction = self.redaction(room, "$x:a.example")
        assert room.allows(redaction)
        target = room.unchecked("m.room.message", {}, sender=sender)
        levels_now = PowerLevels.from_state(rules, room.state)
        assert redaction_applies(rules, redaction, target, levels_now) == applies
        elsewhere = replace(target, room_id="!other:a.example")
        assert not redaction_applies(rules, redaction, elsewhere, levels_now)

    def test_elsewhere_they_may_take_the_level_always(self) -> None:
        room = self.room(replace(V3, redaction_by_own_server=False), 0)
        target = room.unchecked("m.room.message", {}, sender=BOB)
        redaction = self.redaction(room, target.event_id)
        assert not redaction_applies(room.rules, redaction, target, PowerLevels.from_state(room.rules, room.state))

    @pytest.mark.parametrize("rules", [SPEC_2014, V1, V2], ids=lambda rules: rules.name)
    def test_where_they_are_authorised_all_are_done(self, rules: RoomRules) -> None:
        room = Room(rules=rules)
        redaction = room.event("m.room.redaction", {}, sender=BOB, redacts="$x:a.example")
        target = room.unchecked("m.room.message", {}, sender=ALICE)
        assert redaction_applies(rules, redaction, target, PowerLevels.from_state(rules, room.state))


class TestAuthEvents:
    """What an event names as its auth events ("Authorization rules", 3 of room version 12; server-server API)."""

    @staticmethod
    def room(rules: RoomRules) -> Room:
        room = Room({"users": {BOB: 50}}, rules)
        room.join_rule("restricted" if rules.restricted_joins else "invite")
        for user in (BOB, CAROL):
            room.member(user, "join")
        room.put("m.room.topic", {"topic": "x"})
        room.put("m.room.third_party_invite", ADDRESS, TOKEN)
        return room

    @pytest.mark.parametrize(
        ("event_type", "content", "state_key", "named"),
        [
            ("m.room.message", {}, None, ["m.room.power_levels", f"m.room.member {ALICE}"]),
            ("m.room.topic", {"topic": "y"}, "", ["m.room.power_levels", f"m.room.member {ALICE}"]),
            (
                "m.room.member",
                {"membership": "invite"},
                BOB,
                ["m.room.power_levels", f"m.room.member {ALICE}", f"m.room.member {BOB}", "m.room.join_rules"],
            ),
            (
                "m.room.member",
                {"membership": "ban"},
                BOB,
                ["m.room.power_levels", f"m.room.member {ALICE}", f"m.room.member {BOB}"],
            ),
            (
                "m.room.member",
                {"membership": "invite", "third_party_invite": {"signed": {"mxid": BOB, "token": TOKEN}}},
                BOB,
                [
                    "m.room.power_levels",
                    f"m.room.member {ALICE}",
                    f"m.room.member {BOB}",
                    "m.room.join_rules",
                    f"m.room.third_party_invite {TOKEN}",
                ],
            ),
            (
                "m.room.member",
                {"membership": "join", VOUCHER: CAROL},
                ALICE,
                ["m.room.power_levels", f"m.room.member {ALICE}", "m.room.join_rules", f"m.room.member {CAROL}"],
            ),
        ],
    )
    @pytest.mark.parametrize("rules", [V8, V11, V12], ids=lambda rules: rules.name)
    def test_are_what_the_specification_selects(
        self, rules: RoomRules, event_type: str, content: dict[str, Any], state_key: str | None, named: list[str]
    ) -> None:
        room = self.room(rules)
        draft = EventDraft(ROOM_ID, event_type, ALICE, content, state_key)
        by_id = {event.event_id: " ".join(event.state_slot).strip() for event in room.state.values()}
        found = [by_id[event_id] for event_id in auth_events_for(rules, draft, room.state)]
        assert found == (named if rules is V12 else ["m.room.create", *named])

    def test_of_the_first_event_are_none(self) -> None:
        for rules in ALL_RULES:
            assert auth_events_for(rules, EventDraft(ROOM_ID, "m.room.create", ALICE, {}, ""), {}) == ()

    def test_know_no_vouching_member_before_version_8(self) -> None:
        draft = EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": "join", VOUCHER: CAROL}, ALICE)
        assert ("m.room.member", CAROL) not in auth_types_for(V6, draft)
        assert ("m.room.member", CAROL) in auth_types_for(V8, draft)

    @pytest.mark.parametrize("membership", ["invite", "leave", "ban", "knock"])
    def test_know_a_vouching_member_of_joins_only(self, membership: str) -> None:
        """Server-server API, "Auth events selection": where the membership is `join`."""
        draft = EventDraft(ROOM_ID, "m.room.member", ALICE, {"membership": membership, VOUCHER: CAROL}, BOB)
        assert ("m.room.member", CAROL) not in auth_types_for(V8, draft)

    def test_know_no_invited_address_in_2014(self) -> None:
        content = {"membership": "invite", "third_party_invite": {"signed": {"mxid": BOB, "token": TOKEN}}}
        draft = EventDraft(ROOM_ID, "m.room.member", ALICE, content, BOB)
        assert ("m.room.third_party_invite", TOKEN) not in auth_types_for(SPEC_2014, draft)
        assert ("m.room.third_party_invite", TOKEN) in auth_types_for(V1, draft)

    @pytest.mark.parametrize("rules", ALL_RULES, ids=lambda rules: rules.name)
    def test_make_the_state_that_the_event_claims(self, rules: RoomRules) -> None:
        room = Room(None if rules is SPEC_2014 else {"users": {BOB: 50}}, rules)
        message = room.unchecked("m.room.message", {})
        by_id = {event.event_id: event for event in room.state.values()}
        named = [by_id[event_id] for event_id in auth_events_for(rules, message, room.state)]
        claimed = claimed_state(rules, message, named, create=room.state["m.room.create", ""])
        assert claimed == {slot: room.state[slot] for slot in auth_types_for(rules, message) if slot in room.state}
        authorise(rules, message, claimed)

    def test_without_the_creation_allow_nothing(self) -> None:
        room = self.room(V12)
        message = room.unchecked("m.room.message", {})
        claimed = claimed_state(V12, message, [room.state["m.room.member", ALICE]])
        with pytest.raises(AuthError, match="no such room"):
            authorise(V12, message, claimed)

    def test_of_the_first_event_claim_nothing(self) -> None:
        room = self.room(V11)
        assert claimed_state(V11, room.state["m.room.create", ""], [room.state["m.room.topic", ""]]) == {}

    def test_may_be_only_those_that_have_a_say(self) -> None:
        room = self.room(V11)
        message = room.unchecked("m.room.message", {})
        for needless in (room.state["m.room.topic", ""], room.state["m.room.join_rules", ""], message):
            with pytest.raises(AuthError, match="has no say in it"):
                claimed_state(V11, message, [needless])

    def test_may_not_hold_the_creation_where_it_is_understood(self) -> None:
        room = self.room(V12)
        create = room.state["m.room.create", ""]
        message = room.unchecked("m.room.message", {})
        with pytest.raises(AuthError, match="has no say in it"):
            claimed_state(V12, message, [create])
        assert claimed_state(V12, message, [], create=create) == {create.state_slot: create}

    def test_may_not_hold_two_of_one_place(self) -> None:
        room = self.room(V11)
        twin = room.event("m.room.power_levels", {}, "")
        with pytest.raises(AuthError, match="two events in the place"):
            claimed_state(V11, room.unchecked("m.room.message", {}), [room.state["m.room.power_levels", ""], twin])

    def test_may_not_have_been_refused_themselves(self) -> None:
        room = self.room(V11)
        levels_event = room.state["m.room.power_levels", ""]
        with pytest.raises(AuthError, match="was not allowed itself"):
            claimed_state(V11, room.unchecked("m.room.message", {}), [levels_event], rejected={levels_event.event_id})

    def test_may_not_be_of_another_room(self) -> None:
        room = self.room(V11)
        message = room.unchecked("m.room.message", {}, room_id="!other:a.example")
        with pytest.raises(AuthError, match="of another room"):
            claimed_state(V11, message, [room.state["m.room.create", ""]])


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
def test_room_that_tells_no_version_has_version_1(rules: RoomRules) -> None:
    """Client-server API, "m.room.create": `room_version`."""
    room = Room(rules=rules)
    room.state.clear()
    create = room.unchecked("m.room.create", {"creator": ALICE}, state_key="", prev_events=())
    assert room.allows(create) == (rules is V1)


def test_room_made_for_other_rules_is_no_room_of_ours() -> None:
    room = Room(rules=V3)
    room.state.clear()
    room.refuses(
        room.unchecked("m.room.create", {"creator": ALICE, "room_version": "4"}, state_key="", prev_events=()),
        "created for other rules",
    )
