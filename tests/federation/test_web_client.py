"""Requests to servers that the operator has named: whom we believe, and how much they may take of us (LOGIN-6)."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from pathlib import Path

import pytest

from synapse_like.authorities import AuthoritiesUnusable
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.web_client import MOST_BYTES, WebClient
from tests.federation.other_servers import FederationCase, Other, Visitor, answer, loop
from tests.support.certificates import Authority


def fine(visitor: Visitor) -> None:
    visitor.say(answer(b"{}"))


class WebClientTests(FederationCase):
    def web(self, ca_file: Path | None, timeout: float = 5) -> WebClient:
        return WebClient(loop, ca_file=ca_file, timeout=timeout, user_agent="ours")

    async def refusal(self, web: WebClient, other: Other, path: str = "/") -> str:
        with pytest.raises(ServerUnreachable) as caught:
            await web.request("GET", f"https://localhost:{other.port}{path}")
        assert caught.value.destination == f"localhost:{other.port}"
        return str(caught.value.reason)

    async def test_request_is_what_was_asked_for(self) -> None:
        other = self.listen(fine)
        given = await self.web(self.authority.file).request(
            "POST", f"https://localhost:{other.port}/a%2Fb?c=d", headers={"X-Y": "z"}, body=b"body"
        )
        assert (given.status, given.body) == (200, b"{}")
        head, _, body = other.requests[0].partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        assert first == b"POST /a%2Fb?c=d HTTP/1.1"
        assert {b"X-Y: z", b"User-Agent: ours", f"Host: localhost:{other.port}".encode()} <= set(lines)
        assert body == b"body"

    async def test_only_who_can_prove_to_be_the_server_is_asked(self) -> None:
        other = self.listen(fine)
        stranger = Authority(self.folder / "stranger", "stranger")
        for ca_file in (None, stranger.file):
            await self.refusal(self.web(ca_file), other)
        wrong = self.listen(fine, "other.example")
        await self.refusal(self.web(self.authority.file), wrong)
        assert other.requests == wrong.requests == []

    async def test_redirects_are_not_followed(self) -> None:
        target = self.listen(fine)
        other = self.listen(lambda visitor: visitor.say(answer(b"", 302, Location=f"https://localhost:{target.port}/")))
        given = await self.web(self.authority.file).request("GET", f"https://localhost:{other.port}/")
        assert given.status == 302
        assert target.requests == []

    async def test_answers_are_bounded_in_size_and_time(self) -> None:
        large = self.listen(lambda visitor: visitor.say(answer(b"x" * (MOST_BYTES + 1))))
        assert "too large" in await self.refusal(self.web(self.authority.file), large)
        silent = self.listen(lambda visitor: None)
        assert "too long" in await self.refusal(self.web(self.authority.file, timeout=0.3), silent)
        halting = self.listen(lambda visitor: visitor.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"))
        assert "too long" in await self.refusal(self.web(self.authority.file, timeout=0.3), halting)
        broken = self.listen(
            lambda visitor: (visitor.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"), visitor.abort())
        )
        await self.refusal(self.web(self.authority.file), broken)

    async def test_file_that_holds_no_authority_is_told_of(self) -> None:
        empty = self.folder / "empty.pem"
        empty.write_text("")
        for path in (empty, self.folder / "missing.pem"):
            with pytest.raises(AuthoritiesUnusable, match=path.name):
                self.web(path)
