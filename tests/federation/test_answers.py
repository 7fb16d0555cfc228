"""Answers of other servers, read as they arrive: what is one, where it ends, and what is none (FED-1, SEC-1)."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from synapse_like.federation.answers import MOST_HEAD_BYTES, AnswerReader, Headers, Whole
from synapse_like.federation.connecting import Connection
from synapse_like.federation.reasons import NotAnAnswer


class Told:
    """A taker that remembers."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.length: int | None = None
        self.body = b""

    def begin(self, status: int, headers: Headers, length: int | None) -> None:
        assert not self.status
        self.status, self.headers, self.length = status, headers, length

    def take(self, piece: bytes) -> None:
        assert self.status
        assert piece
        self.body += piece

    def end(self) -> None:
        raise AssertionError("its connection says so")

    def fail(self, error: Exception) -> None:
        raise AssertionError("its connection says so")


def read(data: bytes, size: int) -> tuple[Told, AnswerReader, bool]:
    """What is told of an answer that comes in pieces of a size; its reader; and whether that was all of it."""
    told = Told()
    reader = AnswerReader(told)
    is_over = False
    for start in range(0, len(data), size):
        assert not is_over
        is_over = reader.feed(data[start : start + size])
    return told, reader, is_over


SIZES = pytest.mark.parametrize("size", [1, 2, 7, 100_000])


@SIZES
@pytest.mark.parametrize(
    ("data", "status", "body", "is_last"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}", False),
        (b"HTTP/1.1 404\r\ncontent-length:0\r\n\r\n", 404, b"", False),
        (b"HTTP/1.1 204 Fine\r\n\r\n", 204, b"", False),
        (b"HTTP/1.1 500 Oh no\r\nConnection: Close\r\nContent-Length: \t1 \r\n\r\nx", 500, b"x", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n", 200, b"{}", False),
        (b"HTTP/1.1 103 Soon\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    ],
)
def test_answer_ends_where_it_says(data: bytes, status: int, body: bytes, is_last: bool, size: int) -> None:
    told, reader, is_over = read(data, size)
    assert (told.status, told.body, is_over, reader.is_last) == (status, body, True, is_last)


@SIZES
def test_headers_are_put_together(size: int) -> None:
    told, _, is_over = read(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n  2\r\nx-a:3\r\nX-B:\r\nContent-Length: 5\r\n\r\n1234", size)
    assert told.headers == {b"x-a": b"1 2, 3", b"x-b": b"", b"content-length": b"5"}
    assert (told.length, told.body, is_over) == (5, b"1234", False)


@SIZES
def test_answer_without_an_end_is_not_over(size: int) -> None:
    told, reader, is_over = read(b"HTTP/1.1 200 OK\r\n\r\n{}", size)
    assert (told.body, is_over, reader.is_last, reader.ends_with_connection) == (b"{}", False, True, True)


@SIZES
@pytest.mark.parametrize("end", [b"Content-Length: 3\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"])
def test_answer_that_says_where_it_ends_does_not_end_with_its_connection(end: bytes, size: int) -> None:
    told, reader, is_over = read(b"HTTP/1.0 200 OK\r\n" + end, size)
    assert (told.body, is_over, reader.ends_with_connection) == (b"{}", False, False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
    ],
)
def test_connection_ends_where_more_comes_than_was_asked_for(data: bytes) -> None:
    _, reader, is_over = read(data, len(data))
    assert is_over
    assert reader.is_last


@SIZES
@pytest.mark.parametrize(
    "data",
    [
        b"\x00\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a number\r\n",
    ],
)
def test_nonsense_is_no_answer(data: bytes, size: int) -> None:
    with pytest.raises(NotAnAnswer):
        read(data, size)


@pytest.mark.parametrize(
    ("beginning", "more"), [(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), (b"", b"HTTP/1.1 102 Wait\r\n\r\n")]
)
def test_head_is_bounded_however_it_is_made_long(beginning: bytes, more: bytes) -> None:
    with pytest.raises(NotAnAnswer, match="too large"):
        read(beginning + 2 * MOST_HEAD_BYTES // len(more) * more, len(more))


def test_one_timer_sees_to_all_that_a_connection_may_take() -> None:
    time = Clock()
    unused: Any = None
    transport = StringTransport()
    connection = Connection("a.example", unused, time)
    connection.transport = transport  # type: ignore[assignment]  # it has what is used of TLS
    connection._has_session = True
    whole = Whole(connection, 100)
    connection.ask(b"GET / HTTP/1.1\r\n\r\n", whole, answer=60, body=120)
    assert transport.value() == b"GET / HTTP/1.1\r\n\r\n"
    time.advance(59)
    connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    time.advance(119)
    connection.dataReceived(b"{}")
    assert whole.outcome.result == (200, b"{}")
    connection.keep(50)
    time.advance(49)
    assert len(time.getDelayedCalls()) == 1
    assert not transport.disconnected
    connection.ask(b"GET / HTTP/1.1\r\n\r\n", late := Whole(connection, 100), answer=60, body=120)
    failed: list[BaseException] = []
    late.outcome.addErrback(lambda failure: failed.append(failure.value))
    time.advance(59)
    assert not failed
    time.advance(1)
    assert [type(error).__name__ for error in failed] == ["TimeoutError"]
    assert transport.disconnected
    assert not time.getDelayedCalls()
