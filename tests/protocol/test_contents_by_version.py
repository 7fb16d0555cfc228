"""Contents in the Matrix room versions: what is asked of our own users, and what the rules of a room read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol.contents import check_content, check_ruling_content
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.room_versions import ALL_RULES, SPEC_2014, V1, V5, V6, V7, V8, V9, V10, V11, V12, RoomRules
from tests.protocol.refusals import refusal_of
from tests.protocol.room import ALICE, VERSIONS, since, until
from tests.protocol.strategies import any_values, contents

VOUCHER = "join_authorised_via_users_server"
OLD_USER = "@Älice B:a.example"

STATE: dict[str, dict[str, Any]] = {
    "m.room.create": {
        "creator": OLD_USER,
        "room_version": "1",
        "type": "m.space",
        "m.federate": True,
        "predecessor": {"room_id": "!x:a.example", "event_id": "$x:a.example"},
    },
    "m.room.member": {"membership": "join", "displayname": "Alice", "avatar_url": None, "reason": "x"},
    "m.room.join_rules": {"join_rule": "invite"},
    "m.room.power_levels": {
        "users": {OLD_USER: 100},
        "users_default": 0,
        "events": {"m.room.name": 50},
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
    },
    "m.room.history_visibility": {"history_visibility": "joined"},
    "m.room.guest_access": {"guest_access": "can_join"},
    "m.room.third_party_invite": {
        "display_name": "a…@example.com",
        "key_validity_url": "https://id.example/",
        "public_key": "AAAA",
        "public_keys": [{"public_key": "AAAA"}],
    },
    "m.room.aliases": {"aliases": ["#pub:a.example"]},
    "m.room.name": {"name": "Pub"},
    "m.room.topic": {"topic": "Welcome"},
    "m.room.avatar": {"url": "mxc://a.example/1", "info": {"size": 1, "w": 2}},
    "m.room.canonical_alias": {"alias": "#pub:a.example", "alt_aliases": ["#inn:a.example"]},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
    "m.room.pinned_events": {"pinned": ["$x"]},
    "m.room.server_acl": {"allow": ["*"], "deny": ["x.example"], "allow_ip_literals": False},
    "m.room.tombstone": {"body": "moved", "replacement_room": "!y:a.example"},
}
STATE_KEYS = {"m.room.member": OLD_USER, "m.room.aliases": "a.example"}
RULING = ("m.room.create", "m.room.member", "m.room.power_levels")

OPTIONAL = {
    *("room_version", "type", "m.federate", "predecessor", "displayname", "avatar_url", "reason", "public_keys"),
    *("alias", "alt_aliases", "allow", "deny", "allow_ip_literals", "url", "info", *STATE["m.room.power_levels"]),
}


def check(rules: RoomRules, event_type: str, content: object) -> None:
    state_key = STATE_KEYS.get(event_type, "") if event_type in STATE else None
    check_content(rules, event_type, content, state_key=state_key)


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
@pytest.mark.parametrize("event_type", sorted(STATE))
class TestState:
    def test_well_formed_content_passes(self, rules: RoomRules, event_type: str) -> None:
        check(rules, event_type, STATE[event_type])
        check(rules, event_type, STATE[event_type] | {"org.example.more": [None]})
        check_ruling_content(rules, event_type, STATE[event_type], state_key="")

    def test_exactly_the_required_keys_may_not_be_absent(self, rules: RoomRules, event_type: str) -> None:
        for key in STATE[event_type]:
            rest = {name: value for name, value in STATE[event_type].items() if name != key}
            if key in OPTIONAL or (key == "creator" and not rules.create_names_creator):
                check(rules, event_type, rest)
            else:
                with pytest.raises(BadJson, match=f"content.{key}' is missing"):
                    check(rules, event_type, rest)

    def test_every_known_key_has_its_type_checked(self, rules: RoomRules, event_type: str) -> None:
        for key in STATE[event_type]:
            if key == "creator" and not rules.create_names_creator:
                continue
            for wrong in (object(), [object()]):
                with pytest.raises(BadJson):
                    check(rules, event_type, STATE[event_type] | {key: wrong})

    def test_state_needs_a_state_key(self, rules: RoomRules, event_type: str) -> None:
        with pytest.raises(BadJson, match="needs a state key"):
            check_content(rules, event_type, STATE[event_type], state_key=None)


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
@pytest.mark.parametrize("event_type", ["m.room.create", "m.room.history_visibility", "m.room.topic"])
@pytest.mark.parametrize("content", [None, [], "x"])
def test_content_must_be_an_object(rules: RoomRules, event_type: str, content: object) -> None:
    for function in (check_content, check_ruling_content):
        with pytest.raises(BadJson, match="'content' must be an object"):
            function(rules, event_type, content, state_key="")


class TestDifferences:
    """What changes from one version to another."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    def test_memberships(self, rules: RoomRules) -> None:
        for membership in ("invite", "join", "leave", "ban"):
            check(rules, "m.room.member", {"membership": membership})
        self.passes(rules, "m.room.member", {"membership": "knock"}, rules in since(7))
        self.passes(rules, "m.room.member", {"membership": "kick"}, False)

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    def test_join_rules(self, rules: RoomRules) -> None:
        known = {"public": 1, "invite": 1, "private": 1, "knock": 7, "restricted": 8, "knock_restricted": 10}
        for word, version in known.items():
            self.passes(rules, "m.room.join_rules", {"join_rule": word}, rules in since(version), ruling=False)
        self.passes(rules, "m.room.join_rules", {"join_rule": "open"}, False, ruling=False)

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    def test_lists_of_rooms_whose_members_may_join(self, rules: RoomRules) -> None:
        content = {"join_rule": "invite", "allow": [{"type": "m.room_membership", "room_id": "!x:a.example"}]}
        check(rules, "m.room.join_rules", content)
        for wrong in ({}, [None], [{}], [{"type": 7}], [{"type": "m.room_membership", "room_id": 7}]):
            self.passes(rules, "m.room.join_rules", content | {"allow": wrong}, rules in until(7), ruling=False)

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    def test_vouching_members(self, rules: RoomRules) -> None:
        check(rules, "m.room.member", {"membership": "join", VOUCHER: OLD_USER})
        for wrong in (None, 7, "alice"):
            self.passes(rules, "m.room.member", {"membership": "join", VOUCHER: wrong}, rules in until(7))

    @pytest.mark.parametrize(("rules", "needed"), [(V10, True), (V11, False), (V12, False)])
    def test_creator(self, rules: RoomRules, needed: bool) -> None:
        self.passes(rules, "m.room.create", {}, not needed)

    def test_rules_do_not_ask_who_the_creator_is(self) -> None:
        check_ruling_content(V1, "m.room.create", {"creator": None}, state_key="")
        with pytest.raises(BadJson):
            check(V1, "m.room.create", {"creator": None})

    @pytest.mark.parametrize("wrong", [None, {}, "x", [7], ["alice"], [OLD_USER, None]])
    def test_additional_creators(self, wrong: object) -> None:
        self.passes(V12, "m.room.create", {"additional_creators": [ALICE, OLD_USER]}, True)
        self.passes(V12, "m.room.create", {"additional_creators": wrong}, False)
        self.passes(V11, "m.room.create", {"additional_creators": wrong}, True)

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    def test_levels(self, rules: RoomRules) -> None:
        self.passes(rules, "m.room.power_levels", {"ban": "50", "users": {ALICE: " +1 "}}, rules in until(9))
        self.passes(rules, "m.room.power_levels", {"ban": 50.5, "users": {ALICE: 1.5}}, rules in until(5))
        self.passes(rules, "m.room.power_levels", {"notifications": {"room": "x"}}, rules in until(5))

    @pytest.mark.parametrize(("rules", "passes"), [(V10, True), (V11, False), (V12, False)])
    def test_target_of_a_redaction(self, rules: RoomRules, passes: bool) -> None:
        check(rules, "m.room.redaction", {"redacts": "$x", "reason": "rude"})
        self.passes(rules, "m.room.redaction", {}, passes, ruling=False)
        self.passes(rules, "m.room.redaction", {"redacts": 7}, passes, ruling=False)
        self.passes(rules, "m.room.redaction", {"redacts": "$x", "reason": 7}, False, ruling=False)

    @staticmethod
    def passes(
        rules: RoomRules, event_type: str, content: dict[str, Any], passes: bool, *, ruling: bool = True
    ) -> None:
        state_key = STATE_KEYS.get(event_type, "") if event_type in STATE else None
        for function in (check_content, check_ruling_content) if ruling else (check_content,):
            refusal = refusal_of(lambda f=function: f(rules, event_type, content, state_key=state_key))
            assert (refusal is None) == passes


class TestWhatTheRulesRead:
    """`check_ruling_content` asks for no more than the room version does."""

    @pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.name)
    @given(
        event_type=st.sampled_from(sorted(STATE.keys() - set(RULING))) | st.just("m.room.message"),
        content=st.dictionaries(st.sampled_from(["join_rule", "name", "aliases", "history_visibility"]), any_values),
    )
    def test_other_types_may_hold_anything(self, rules: RoomRules, event_type: str, content: dict[str, Any]) -> None:
        check_ruling_content(rules, event_type, content, state_key="")

    @pytest.mark.parametrize("rules", [SPEC_2014, V1, V12], ids=lambda rules: rules.name)
    def test_membership_needs_a_state_key(self, rules: RoomRules) -> None:
        with pytest.raises(BadJson, match="needs a state key"):
            check_ruling_content(rules, "m.room.member", {"membership": "join"}, state_key=None)

    def test_member_may_have_any_name(self) -> None:
        content = {"membership": "join", "displayname": 7}
        check_ruling_content(V11, "m.room.member", content, state_key=ALICE)
        for rules in (V11, SPEC_2014):
            with pytest.raises(BadJson):
                check_content(rules, "m.room.member", content, state_key=ALICE)
        with pytest.raises(BadJson):
            check_ruling_content(SPEC_2014, "m.room.member", content, state_key=ALICE)

    @pytest.mark.parametrize(
        ("event_type", "content"),
        [
            ("m.room.create", {"creator": "alice"}),
            ("m.room.join_rules", {"join_rule": "open"}),
            ("m.room.power_levels", {"alice": 1}),
            ("m.room.add_state_level", {}),
            ("m.room.send_event_level", {"level": "1"}),
            ("m.room.ops_levels", {"ban_level": None}),
        ],
    )
    def test_in_2014_all_rule_events_are_checked_in_full(self, event_type: str, content: dict[str, Any]) -> None:
        with pytest.raises(BadJson):
            check_ruling_content(SPEC_2014, event_type, content, state_key="")

    @given(st.sampled_from(ALL_RULES), st.sampled_from(RULING), st.data())
    def test_no_content_fails_otherwise_than_by_bad_json(
        self, rules: RoomRules, event_type: str, data: st.DataObject
    ) -> None:
        keys = st.sampled_from([*STATE[event_type], "notifications", "additional_creators", VOUCHER])
        content = data.draw(st.dictionaries(keys, any_values | st.dictionaries(st.just(ALICE), any_values)))
        for function in (check_content, check_ruling_content):
            error = refusal_of(lambda f=function: f(rules, event_type, content, state_key=""))
            assert error is None or isinstance(error, BadJson)


class TestMessages:
    """Messages of today name their kind and have a body; their many kinds are the clients' affair."""

    @pytest.mark.parametrize("rules", [V1, V5, V6, V7, V8, V9, V10, V12], ids=lambda rules: rules.name)
    def test_kinds_that_came_later_pass(self, rules: RoomRules) -> None:
        check(rules, "m.room.message", {"msgtype": "m.image", "body": "x", "file": {"url": "mxc://a.example/1"}})

    @pytest.mark.parametrize("content", [{"body": "x"}, {"msgtype": "m.text"}, {"msgtype": 7, "body": "x"}])
    def test_kind_and_body_are_needed(self, content: dict[str, Any]) -> None:
        with pytest.raises(BadJson, match=r"content\.(msgtype|body)"):
            check(V11, "m.room.message", content)

    @given(contents, st.none() | st.just(""))
    def test_unknown_types_pass_untouched(self, content: dict[str, Any], state_key: str | None) -> None:
        check_content(V11, "org.example.unknown", content, state_key=state_key)
        check_content(V11, "m.room.add_state_level", content, state_key=state_key)


CALL: dict[str, Any] = {"call_id": "1", "version": "1", "party_id": "x"}
SESSION = {"type": "offer", "sdp": "v=0"}
CALLS: dict[str, dict[str, Any]] = {
    "m.call.invite": {**CALL, "lifetime": 60000, "offer": SESSION, "invitee": ALICE},
    "m.call.candidates": {**CALL, "candidates": [{"candidate": "x", "sdpMid": "0", "sdpMLineIndex": 0}]},
    "m.call.answer": {**CALL, "answer": SESSION},
    "m.call.hangup": {**CALL, "reason": "user_hangup"},
}
NEEDED = [
    *((event_type, key) for event_type in CALLS for key in ("call_id", "version")),
    ("m.call.invite", "lifetime"),
    ("m.call.invite", "offer"),
    ("m.call.candidates", "candidates"),
    ("m.call.answer", "answer"),
]


class TestCalls:
    """EVT-4: what our own users say of calls, in rooms of today."""

    @pytest.mark.parametrize("rules", [V1, V5, V6, V7, V8, V9, V10, V11, V12], ids=lambda rules: rules.name)
    @pytest.mark.parametrize("event_type", CALLS)
    @pytest.mark.parametrize("version", ["1", "org.example", 0])
    def test_calls_of_the_agreed_shape_pass(self, rules: RoomRules, event_type: str, version: object) -> None:
        check(rules, event_type, {**CALLS[event_type], "version": version})

    @pytest.mark.parametrize(
        "candidate", [{"candidate": ""}, {"candidate": "x", "sdpMid": None, "sdpMLineIndex": None, "more": {}}]
    )
    def test_candidate_may_say_no_place(self, candidate: dict[str, Any]) -> None:
        check(V11, "m.call.candidates", {**CALL, "candidates": [candidate]})

    @pytest.mark.parametrize(("event_type", "key"), NEEDED)
    def test_what_is_needed_must_be_there_and_be_what_it_should(self, event_type: str, key: str) -> None:
        content = CALLS[event_type]
        check(V11, event_type, content)
        for wrong in ({k: v for k, v in content.items() if k != key}, {**content, key: None}, {**content, key: True}):
            with pytest.raises(BadJson, match=rf"content\.{key}"):
                check(V11, event_type, wrong)

    @pytest.mark.parametrize(
        ("event_type", "wrong"),
        [
            ("m.call.invite", {"offer": {"type": "offer"}}),
            ("m.call.invite", {"offer": {"type": "offer", "sdp": 1}}),
            ("m.call.answer", {"answer": {"sdp": "v=0"}}),
            ("m.call.candidates", {"candidates": ["x"]}),
            ("m.call.candidates", {"candidates": [{}]}),
            ("m.call.candidates", {"candidates": [{"candidate": "x", "sdpMid": 0}]}),
            ("m.call.candidates", {"candidates": [{"candidate": "x", "sdpMLineIndex": "0"}]}),
        ],
    )
    def test_what_is_within_is_checked_too(self, event_type: str, wrong: dict[str, Any]) -> None:
        with pytest.raises(BadJson):
            check(V11, event_type, {**CALLS[event_type], **wrong})

    @pytest.mark.parametrize("event_type", CALLS)
    def test_other_servers_events_are_not_refused_for_it(self, event_type: str) -> None:
        for rules in (V1, V11):
            check_ruling_content(rules, event_type, {"call_id": 5}, state_key=None)
