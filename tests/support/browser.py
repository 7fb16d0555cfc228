"""A real browser, Debian's Chromium, and a judge of whether all people can use a page, axe-core."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

HOW_TO_INSTALL = (
    "Chromium and axe-core are needed to try the pages (Debian: apt-get install chromium; npm ci --prefix tests/node)"
)
AXE = Path(__file__).parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"
_SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """Its program, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """The browser, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_SWITCHES)
        yield browser
        browser.close()


def faults(page: Page) -> list[str]:
    """What keeps some people from using a page, as it is shown just now.

    It is looked at in a world apart, since the policy of the page lets no script of ours run in its own.
    """
    session = page.context.new_cdp_session(page)
    frame = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
    world = session.send("Page.createIsolatedWorld", {"frameId": frame})["executionContextId"]

    def run(script: str, *, waits: bool = False) -> Any:
        answer = session.send(
            "Runtime.evaluate",
            {"expression": script, "contextId": world, "awaitPromise": waits, "returnByValue": waits},
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    run(AXE.read_text())
    found = run("axe.run().then(r => r.violations.map(v => `${v.id}: ${v.help}: ${v.nodes[0].html}`))", waits=True)
    session.detach()
    return list(found)
