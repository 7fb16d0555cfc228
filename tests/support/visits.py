"""What a browser makes of an address by itself: Chromium, without a window, run once for each page."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import TemporaryDirectory

from tests.support.browser import find_chromium
from tests.support.needed import needed

HOW_TO_INSTALL = "needs Chromium: apt-get install chromium"
#: How long a page may take, in seconds.
PATIENCE = 8


def visit(url: str) -> str:
    """Go to an address and wait until the page has been there for a while; what it has become, as HTML.

    Nothing if it is not a page, but a download: the browser would wait for ever, and is ended.
    """
    program = needed(find_chromium(), "CHROMIUM", HOW_TO_INSTALL)
    with TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [
                program,
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"),
                *("--virtual-time-budget=2000", f"--user-data-dir={profile}", "--dump-dom", url),
            ],
            cwd=profile,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            return browser.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            return ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)
            browser.communicate()


class Listener:
    """A web server of the tests', which notes what it is asked for.

    :ivar asked: the paths.
    :ivar pages: what it shows, without any precaution: type and content, by path.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pages: Mapping[str, tuple[str, bytes]] = {}
        self.url = ""


@contextmanager
def listening() -> Iterator[Listener]:
    """Run such a server."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listener.asked.append(self.path)
            kind, content = listener.pages.get(self.path, ("text/plain", b""))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
