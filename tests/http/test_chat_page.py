"""How the chat page is served: whole, kept by browsers as long as it is good, and unable to do harm."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from synapse_like import webclient
from synapse_like.http.pages.chat import FOLDER, mount_chat_page
from tests.http.site_case import Answer, SiteCase, request

PAGE = webclient.load(FOLDER)
INDEX = PAGE.index.content.decode()


class ChatPageTest(SiteCase):
    def setUp(self) -> None:
        mounts: Any = [mount_chat_page(PAGE)]
        self.serve_mounts(mounts, limiter=_Unlimited())

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        client = await self.connect()
        client.send(request(method, path, **headers))
        return await client.answer()

    async def test_page_is_asked_for_each_time_and_sent_once(self) -> None:
        first = await self.get("/")
        assert (first.status, first.body) == (200, PAGE.index.content)
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        assert first.headers["cache-control"] == "no-cache"
        again = await self.get("/", If_None_Match=first.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert (await self.get("/", If_None_Match='"other"')).status == 200

    async def test_everything_that_the_page_names_is_there_and_kept_for_ever(self) -> None:
        named = re.findall(r'(?:href|src)="([^"]+)"', INDEX)
        assert len(named) > 10
        for path in named:
            answer = await self.get(path)
            assert answer.status == 200, path
            assert answer.headers["content-type"] == webclient.TYPES[path.rpartition(".")[2]], path
            assert "immutable" in answer.headers["cache-control"]
            assert (await self.get(path, If_None_Match=answer.headers["etag"])).status == 304

    async def test_policy_lets_nothing_in_from_elsewhere(self) -> None:
        for path in ("/", f"{FOLDER}{PAGE.version}/main.js"):
            headers = (await self.get(path)).headers
            policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"

    async def test_head_is_answered_without_a_body(self) -> None:
        client = await self.connect()
        client.send(request("HEAD", "/") + request("HEAD", "/webclient/none") + request("GET", "/"))
        for status in (200, 404):
            answer = await client.answer(has_body=False)
            assert answer.status == status
            assert int(answer.headers["content-length"]) > 0
        whole = await client.answer()
        assert (whole.status, whole.body) == (200, PAGE.index.content)

    async def test_nothing_else_is_served(self) -> None:
        folder = f"{FOLDER}{PAGE.version}"
        others = ("/index.html", "/main.js", f"{FOLDER}main.js", f"{FOLDER}0/main.js", folder, f"{folder}/index.html")
        for path in (*others, f"{folder}/../__init__.py", f"{folder}/%2e%2e/__init__.py", f"{folder}/main.js/"):
            assert (await self.get(path)).status == 404, path
        assert (await self.get("/", "POST")).status == 405


def test_every_module_is_fetched_at_once() -> None:
    modules = {file.path for file in PAGE.files if file.path.endswith(".js")}
    preloaded = set(re.findall(rf'"modulepreload" href="{FOLDER}{PAGE.version}/([^"]+)"', INDEX))
    assert preloaded == modules - {"main.js"}


def test_modules_import_what_is_there_and_only_downwards() -> None:
    """The API knows nothing; what is known (`model`) knows no page; only `views` do."""
    files = {file.path: file.content.decode() for file in PAGE.files if file.path.endswith(".js")}
    floors = {"main.js": 3, "views": 2, "model": 1, "api.js": 0}
    for path, text in files.items():
        own = floors[path.split("/")[0]]
        for name in re.findall(r'^(?:import|export)[^;]*from "([^"]+)";', text, re.MULTILINE):
            target = str(PurePosixPath(*_resolved(PurePosixPath(path).parent / name)))
            assert target in files, f"{path} imports {name}"
            assert floors[target.split("/")[0]] <= own, f"{path} imports {name}"
        if own < 2:
            assert "document." not in text, f"{path} knows a page"
        if path != "api.js":
            assert not re.search(r"\bfetch\(|XMLHttpRequest", text), f"{path} asks by itself"


def test_nothing_stands_in_the_page_that_its_policy_forbids() -> None:
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", INDEX)
    for file in PAGE.files:
        text = file.content.decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", text), file.path
        assert set(re.findall(r"https?://[\w.-]+", text)) <= {"http://www.w3.org"}, file.path


def _resolved(path: PurePosixPath) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts


class _Unlimited:
    def check(self, kind: str, key: str) -> None:
        """Nothing is too much."""
