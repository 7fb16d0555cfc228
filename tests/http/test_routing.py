"""Finding the route that a path means (API-6), and refusing tables that contradict themselves."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_like.http.requests import Call
from synapse_like.http.routing import Match, Mount, Route, Router, split_path
from synapse_like.protocol.errors import BadJson


async def nothing(call: Call[str]) -> object:
    return {}


def router(*routes: tuple[str, str], prefix: str = "") -> Router[str]:
    return Router([Mount(prefix, [Route(method, path, nothing) for method, path in routes])])


def find(router: Router[str], method: str, path: bytes) -> Match[str] | None:
    return router.match(method, split_path(path))


def test_parameters_are_given_by_name_in_the_order_of_the_path() -> None:
    match = find(router(("PUT", "/rooms/{room}/send/{type}"), prefix="/api"), "PUT", b"/api/rooms/!a:b/send/m.text")
    assert match is not None
    assert list(match.params.items()) == [("room", "!a:b"), ("type", "m.text")]
    assert match.template == "/api/rooms/{room}/send/{type}"


def test_escaped_slash_is_data_and_decoded_only_once() -> None:
    match = find(router(("GET", "/state/{type}/{key}")), "GET", b"/state/a%2Fb/%252F%20%C3%A9")
    assert match is not None
    assert match.params == {"type": "a/b", "key": "%2F é"}


def test_fixed_segment_is_found_however_it_is_escaped() -> None:
    assert find(router(("GET", "/rooms")), "GET", b"/%72ooms") is not None


def test_percent_without_digits_stands_for_itself() -> None:
    assert split_path(b"/100%/%zz") == ["100%", "%zz"]


@pytest.mark.parametrize("path", [b"/%ff", b"/%ed%a0%80", b"/a/%C3", b"/\x80"])
def test_path_that_is_not_utf8_is_refused(path: bytes) -> None:
    with pytest.raises(BadJson):
        split_path(path)


def test_empty_last_segment_is_a_segment() -> None:
    table = router(("GET", "/state/{type}"), ("GET", "/state/{type}/{key}"))
    assert find(table, "GET", b"/state/m.x").params == {"type": "m.x"}  # type: ignore[union-attr]  # a None fails
    assert find(table, "GET", b"/state/m.x/").params == {"type": "m.x", "key": ""}  # type: ignore[union-attr]  # too
    assert find(router(("GET", "/state")), "GET", b"/state/") is None


def test_fixed_segment_wins_over_a_parameter() -> None:
    match = find(router(("GET", "/presence/{user}"), ("GET", "/presence/list")), "GET", b"/presence/list")
    assert match is not None
    assert match.template == "/presence/list"


def test_parameter_is_tried_where_the_fixed_segment_leads_nowhere() -> None:
    table = router(("GET", "/presence/list/{user}"), ("PUT", "/presence/{user}/status"))
    match = find(table, "PUT", b"/presence/list/status")
    assert match is not None
    assert match.params == {"user": "list"}


def test_dead_ends_leave_no_parameters_behind() -> None:
    table = router(("GET", "/a/{x}/{y}/end"), ("GET", "/{p}/{q}/{r}/other"))
    match = find(table, "GET", b"/a/1/2/other")
    assert match is not None
    assert match.params == {"p": "a", "q": "1", "r": "2"}


def test_methods_of_a_path_are_those_of_all_routes_that_fit() -> None:
    table = router(("GET", "/p/list"), ("PUT", "/p/{user}"), ("DELETE", "/p/{user}/x"))
    assert table.methods(["p", "list"]) == ["GET", "PUT"]
    assert table.methods(["p"]) == []


def test_key_tells_apart_what_differs_and_nothing_else() -> None:
    table = router(("PUT", "/a/{x}/{y}"), ("POST", "/a/{x}/{y}"), ("PUT", "/b/{x}/{y}"))

    def key(method: str, path: bytes) -> str:
        match = find(table, method, path)
        assert match is not None
        return match.key()

    requests = [
        ("PUT", b"/a/1/23"),
        ("PUT", b"/a/12/3"),
        ("PUT", b"/a/1%22%2C%2223/"),
        ("PUT", b"/a/1/%2223"),
        ("POST", b"/a/1/23"),
        ("PUT", b"/b/1/23"),
    ]
    assert len({key(*request) for request in requests}) == len(requests)
    assert key("PUT", b"/a/%31/23") == key("PUT", b"/a/1/23")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6))
def test_any_segments_survive_the_way_through_a_path(segments: list[str]) -> None:
    path = "".join("/" + quote(segment, safe="") for segment in segments)
    assert split_path(path.encode()) == segments


@pytest.mark.parametrize(
    "paths",
    [
        ["/a/{x}", "/a/{y}"],
        ["/a", "/a"],
        ["a"],
        ["/{}"],
        ["/{x}/{x}"],
        ["/{not a name}"],
    ],
)
def test_table_that_contradicts_itself_is_refused(paths: list[str]) -> None:
    with pytest.raises(ValueError, match=r"two routes|begin with a slash|need names"):
        router(*(("GET", path) for path in paths))
