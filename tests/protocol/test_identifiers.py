"""Identifiers: what is one, what is none, and which two are the same (API-7)."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import (
    MAX_ID_BYTES,
    EventIdForm,
    RoomAlias,
    RoomIdForm,
    UserId,
    alias_localpart,
    canonical_alias,
    canonical_state_key,
    canonical_user_id,
    domain_of,
    historical_room_id,
    historical_user_id,
    local_part_for_registration,
    parse_alias,
    parse_event_id,
    parse_room_id,
    parse_server_name,
    parse_user_id,
)
from tests.protocol.refusals import refusal_of

PARSERS: list[Callable[[str], object]] = [
    parse_user_id,
    canonical_user_id,
    canonical_state_key,
    parse_alias,
    canonical_alias,
    parse_room_id,
    parse_event_id,
    lambda text: parse_room_id(text, "create-event-hash"),
    lambda text: parse_event_id(text, "hash"),
    lambda text: parse_event_id(text, "url-safe-hash"),
    historical_room_id,
    historical_user_id,
    parse_server_name,
    domain_of,
    alias_localpart,
    lambda text: local_part_for_registration(text, "example.com"),
]

close_to_ids = st.builds(
    lambda sigil, local_part, domain: sigil + local_part + domain,
    st.sampled_from(["", "@", "#", "!", "$"]),
    st.text(st.characters(), max_size=300),
    st.sampled_from(["", ":", ":example.com", ":EXAMPLE.com:1", ":[::1]:8", ":[", ":1.2.3", ":a:b:c", ":\ud800"]),
)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(st.characters()) | close_to_ids)
def test_no_text_makes_a_parser_fail_otherwise_than_by_a_matrix_error(
    parse: Callable[[str], object], text: str
) -> None:
    error = refusal_of(parse, text)
    assert error is None or isinstance(error, BadJson)
    # The sentence must be fit for an answer, and not as long as what it complains of.
    assert error is None or len(error.message.encode()) < 1000


@pytest.mark.parametrize(("canonical", "sigil"), [(canonical_user_id, "@"), (canonical_alias, "#")])
@given(
    local_part=st.text(st.characters(categories=["L", "N", "P"], exclude_characters=":"), min_size=1, max_size=30),
    domain=st.sampled_from(["EXAMPLE.com", "Example.com:8448", "[2001:DB8::1]"]),
)
def test_a_canonical_form_is_its_own_canonical_form(
    canonical: Callable[[str], str], sigil: str, local_part: str, domain: str
) -> None:
    once = canonical(f"{sigil}{local_part}:{domain}")
    assert canonical(once) == once


def test_user_id_is_divided_at_its_first_colon_and_keeps_its_case() -> None:
    assert parse_user_id("@Alice:Example.com:8448") == UserId("Alice", "Example.com:8448")
    assert str(UserId("alice", "example.com")) == "@alice:example.com"
    assert str(RoomAlias("pub", "example.com")) == "#pub:example.com"


def test_user_ids_that_differ_by_case_are_the_same_user() -> None:
    assert canonical_user_id("@Alice:EXAMPLE.com") == "@alice:example.com"


def test_user_ids_are_lowered_in_ascii_only() -> None:
    assert canonical_user_id("@ÄRZTE:example.com") == "@Ärzte:example.com"


def test_state_key_that_is_a_user_id_has_one_spelling() -> None:
    assert canonical_state_key("@Alice:EXAMPLE.com") == "@alice:example.com"
    assert canonical_state_key("Alice") == "Alice"


def test_aliases_that_differ_by_case_are_the_same_alias_in_every_script() -> None:
    assert canonical_alias("#ÄRZTE am Abend:Example.com") == "#ärzte am abend:example.com"


def test_alias_that_outgrows_its_limit_in_lower_case_is_refused() -> None:
    # "İ" takes two bytes, and three in lower case.
    alias = "#" + "İ" * 120 + ":example.com"
    assert len(alias.encode()) <= MAX_ID_BYTES
    with pytest.raises(BadJson, match="longer than 255 bytes"):
        canonical_alias(alias)


def test_room_and_event_ids_keep_their_case() -> None:
    assert parse_room_id("!AbC:example.com") == "!AbC:example.com"
    assert parse_event_id("$AbC:example.com") == "$AbC:example.com"


SLASHED = "acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"
URL_SAFE = "Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"
EITHER = "CD66HAED5npg6074c6pDtLKalHjVfYb2q4Q3LZgrW6o"
NAMED = "AbC:example.com"


@pytest.mark.parametrize(
    ("form", "fitting"),
    [
        (None, {SLASHED, URL_SAFE, EITHER, NAMED}),
        ("chosen-by-origin", {NAMED}),
        ("hash", {SLASHED, EITHER}),
        ("url-safe-hash", {URL_SAFE, EITHER}),
    ],
)
def test_event_id_has_the_form_that_is_asked_for(form: EventIdForm | None, fitting: set[str]) -> None:
    for text in (SLASHED, URL_SAFE, EITHER, NAMED):
        if text in fitting:
            assert parse_event_id(f"${text}", form) == f"${text}"
        else:
            with pytest.raises(BadJson):
                parse_event_id(f"${text}", form)


@pytest.mark.parametrize(
    ("form", "fitting"),
    [
        (None, {URL_SAFE, EITHER, NAMED}),
        ("chosen-by-creator", {NAMED}),
        ("create-event-hash", {URL_SAFE, EITHER}),
    ],
)
def test_room_id_has_the_form_that_is_asked_for(form: RoomIdForm | None, fitting: set[str]) -> None:
    for text in (SLASHED, URL_SAFE, EITHER, NAMED):
        if text in fitting:
            assert parse_room_id(f"!{text}", form) == f"!{text}"
        else:
            with pytest.raises(BadJson):
                parse_room_id(f"!{text}", form)


@pytest.mark.parametrize("text", ["", "x" * 42, "x" * 44, "x" * 42 + "=", "x" * 43 + "\n", "ü" * 43])
def test_hash_has_43_characters_of_base64(text: str) -> None:
    for parse, sigil in ((parse_room_id, "!"), (parse_event_id, "$")):
        with pytest.raises(BadJson):
            parse(sigil + text)
    for form in ("hash", "url-safe-hash"):
        with pytest.raises(BadJson, match="base64"):
            parse_event_id(f"${text}", form)
    with pytest.raises(BadJson, match="base64"):
        parse_room_id(f"!{text}", "create-event-hash")


@pytest.mark.parametrize("text", ["@:example.com", "@Old Name\n:EXAMPLE.com", "@ü@ü:[::1]:80"])
def test_old_user_ids_are_taken_as_they_are(text: str) -> None:
    assert historical_user_id(text) == text


def test_old_room_ids_are_taken_as_they_are() -> None:
    assert historical_room_id("!with a\tspace:example.com") == "!with a\tspace:example.com"


@pytest.mark.parametrize(
    ("parse", "text", "fault"),
    [
        (parse_user_id, "alice:example.com", "does not start with '@'"),
        (parse_user_id, "@alice", "names no server"),
        (parse_user_id, "@:example.com", "nothing between"),
        (parse_user_id, "@alice:", "neither a DNS name"),
        (parse_user_id, "@al ice:example.com", "may not contain"),
        (parse_user_id, "@al\0ice:example.com", "may not contain"),
        (parse_user_id, "@al\u2003ice:example.com", "may not contain"),
        (parse_user_id, "@alice:example.com\n", "may not contain"),
        (parse_user_id, "@al\ud800ice:example.com", "may not contain"),
        (parse_user_id, "@" + "a" * 244 + ":example.com", "longer than 255 bytes"),
        (parse_room_id, "#room:example.com", "does not start with '!'"),
        (parse_room_id, "!room :example.com", "may not contain"),
        (historical_room_id, "!ro\0om:example.com", "may not contain"),
        (historical_room_id, "!:example.com", "nothing between"),
        (historical_user_id, "@al\0ice:example.com", "may not contain"),
        (historical_user_id, "@al\ud800ice:example.com", "may not contain"),
        (historical_user_id, "@alice", "names no server"),
        (historical_user_id, "@alice:", "neither a DNS name"),
        (historical_user_id, "@" + "a" * 244 + ":example.com", "longer than 255 bytes"),
        (parse_event_id, "!event:example.com", "does not start with"),
        (parse_alias, "!room:example.com", "does not start with '#'"),
        (parse_alias, "#two\nlines:example.com", "may not contain"),
        (parse_alias, "#no-break\u00a0space:example.com", "may not contain"),
        (domain_of, "no colon", "names no server"),
        (alias_localpart, "", "is empty"),
        (alias_localpart, "pub:example.com", "between '#' and ':'"),
        (alias_localpart, "#pub", "between '#' and ':'"),
        (alias_localpart, "p\tub", "may not contain"),
        (alias_localpart, "p" * 256, "longer than 255 bytes"),
    ],
)
def test_malformed_identifier_is_refused_with_its_fault(parse: Callable[[str], object], text: str, fault: str) -> None:
    with pytest.raises(BadJson, match=fault):
        parse(text)


def test_identifier_of_255_bytes_passes() -> None:
    user_id = "@" + "a" * 242 + ":example.com"
    assert len(user_id) == MAX_ID_BYTES
    assert canonical_user_id(user_id) == user_id


def test_sentence_quotes_no_more_than_64_characters() -> None:
    with pytest.raises(BadJson) as caught:
        parse_user_id("x" * 5000)
    assert "x" * 64 in caught.value.message
    assert "x" * 65 not in caught.value.message


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Example.COM", "example.com"),
        ("localhost:8448", "localhost:8448"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a-b.c0", "a-b.c0"),
        ("127.0.0.1", "127.0.0.1"),
        ("255.255.255.255:65535", "255.255.255.255:65535"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("[::ffff:1.2.3.4]:1", "[::ffff:1.2.3.4]:1"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_server_name_is_accepted_in_lower_case(text: str, canonical: str) -> None:
    assert parse_server_name(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8448",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:08",
        "example.com:http",
        "example.com:80:80",
        "example..com",
        ".example.com",
        "example.com.",
        "-a.example",
        "a-.example",
        "under_score.example",
        "bücher.example",
        "exam ple.com",
        "example.com/path",
        "alice@example.com",
        "example.com\n",
        "example.com:8448\n",
        "256.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "12345",
        "::1",
        "[::1",
        "[]",
        "[::1]x",
        "[fe80::1%eth0]",
        "[:::]",
        "[1.2.3.4]",
        "a" * 64 + ".example",
        "a." * 128,
        "exam\ud800ple",
    ],
)
def test_what_is_no_server_name_is_refused(text: str) -> None:
    with pytest.raises(BadJson):
        parse_server_name(text)


@pytest.mark.parametrize(
    "name",
    ["Example.COM", "example..com", "-a.example", "1.2.3", "256.1.1.1", "a:08", "a:0", "a:99999", "[::1]:8448"],
)
def test_rooms_may_hold_names_that_nobody_should_choose(name: str) -> None:
    """Appendix "Server Name": who refuses a user ID that the grammar allows refuses power levels that others accept."""
    for parse, text in ((historical_user_id, f"@alice:{name}"), (historical_room_id, f"!room:{name}")):
        assert parse(text) == text


@pytest.mark.parametrize(
    "name", ["", "under_score.example", "a b", "ü.example", "a:", "a:123456", "a:b", "[::1", "[1:G]", "a\n"]
)
def test_grammar_of_server_names_ends_somewhere(name: str) -> None:
    with pytest.raises(BadJson):
        historical_user_id(f"@alice:{name}")


def test_domain_is_what_follows_the_first_colon() -> None:
    assert domain_of("$event:example.com:8448") == "example.com:8448"


@pytest.mark.parametrize("text", ["alice", "Alice", "@alice:example.com", "@ALICE:Example.com"])
def test_registration_takes_a_local_part_or_a_full_id_in_any_case(text: str) -> None:
    assert local_part_for_registration(text, "example.com") == "alice"


def test_registration_takes_every_allowed_character() -> None:
    assert local_part_for_registration("az09._=/+-", "example.com") == "az09._=/+-"


@pytest.mark.parametrize("text", ["", "al ice", "älice", "alice!", "alice:example.com", "a@b", "alice\n", "\u212a"])
def test_registration_refuses_other_characters(text: str) -> None:
    with pytest.raises(BadJson):
        local_part_for_registration(text, "example.com")


@pytest.mark.parametrize("text", ["@alice:other.example", "@alice", "@:example.com", "@äli:example.com"])
def test_registration_refuses_what_is_no_user_of_this_server(text: str) -> None:
    with pytest.raises(BadJson):
        local_part_for_registration(text, "example.com")


def test_registration_refuses_a_user_id_of_more_than_255_bytes() -> None:
    fits = "a" * 242
    assert local_part_for_registration(fits, "example.com") == fits
    with pytest.raises(BadJson, match="longer than 255 bytes"):
        local_part_for_registration(fits + "a", "example.com")


def test_alias_name_is_brought_to_lower_case_and_may_hold_spaces() -> None:
    assert alias_localpart("The Pub Ω") == "the pub ω"
