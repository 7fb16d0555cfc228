"""What a browser makes of an address by itself, and a web server that sees what it asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Browser, Error


def visit(browser: Browser, url: str) -> str:
    """Go to an address, as somebody who was never there, and wait until nothing is loaded any more.

    :returns: what the page has become, as HTML; nothing if it is not a page, but a download.
    """
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(url, wait_until="networkidle")
        return page.content()
    except Error as error:
        if "Download is starting" not in error.message:
            raise
        return ""
    finally:
        context.close()


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
