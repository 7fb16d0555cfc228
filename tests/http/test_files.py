"""Which part of a file is meant, and how its name is written in a header (MEDIA-1)."""

from __future__ import annotations

import pytest

from synapse_like.http.files import disposition, wanted_range

NONE = (0, 0)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-9", (0, 10)),
        ("bytes = 2 - 5", (2, 4)),
        ("bytes=5-", (5, 5)),
        ("bytes=5-1000", (5, 5)),
        ("bytes=-3", (7, 3)),
        ("bytes=-1000", (0, 10)),
        ("bytes=10-", NONE),
        ("bytes=999999999999999999-", NONE),
        ("bytes=-0", NONE),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("bytes=1", None),
        ("lines=0-1", None),
        ("bytes=٠-٩", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_part_of_ten_bytes(header: str | None, part: tuple[int, int] | None) -> None:
    assert wanted_range(header, 10) == part


def test_nothing_has_no_parts() -> None:
    assert wanted_range("bytes=0-", 0) == NONE
    assert wanted_range("bytes=-5", 0) in (NONE, None)


@pytest.mark.parametrize(
    ("mimetype", "filename", "header"),
    [
        ("image/png", None, "inline"),
        ("image/png", "a.png", 'inline; filename="a.png"'),
        ("image/svg+xml", "a.svg", 'attachment; filename="a.svg"'),
        ("text/html", None, "attachment"),
        ("application/octet-stream", 'a"b\\c', "attachment; filename=\"a_b_c\"; filename*=UTF-8''a%22b%5Cc"),
        ("video/mp4", "a%20b", "inline; filename=\"a_20b\"; filename*=UTF-8''a%2520b"),
        ("video/mp4", "a\r\nX: y", "inline; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
        ("video/mp4", "日本", "inline; filename=\"__\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC"),
    ],
)
def test_disposition(mimetype: str, filename: str | None, header: str) -> None:
    assert disposition(mimetype, filename) == header
    assert header.isascii()
