"""Real OpenID providers, certified ones: npm's oidc-provider, in a process of its own; and people who log in there."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, OpenerDirector, build_opener

from tests.support.processes import dying_with_us, free_port, wait_until

FOLDER = Path(__file__).parents[1] / "node"
HOW_TO_INSTALL = "oidc-provider is needed to try logins by OAuth 2 (Node.js 18 or newer, npm ci --prefix tests/node)"
CLIENT_ID, CLIENT_SECRET = "synapse_like", "a secret: with %, + and a colon"


def find_node() -> str | None:
    """Node.js, if that and the provider are installed."""
    return shutil.which("node") if (FOLDER / "node_modules" / "oidc-provider").is_dir() else None


class OidcProviders:
    """The process, with two providers in it.

    Who logs in as `alice` has the subject and the user name `alice`, and the address `alice@example.org`, which is
    confirmed unless the name begins with `unsure`.

    :param node: as found by `find_node`.
    :param folder: where its log goes; must exist.
    """

    def __init__(self, node: str, folder: Path) -> None:
        self._node = node
        self._log = folder / "oidc.log"
        self.ports = [free_port(), free_port()]
        self._ids: set[str] = set()
        self._base_urls: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def issuer(self, number: int = 0) -> str:
        """The issuer identifier of one of the two."""
        return f"http://127.0.0.1:{self.ports[number]}"

    def settings(self, id: str, name: str, *, number: int = 0, **more: object) -> dict[str, object]:  # noqa: A002
        """How a home server is told of one of them.

        :param more: settings beside those that are needed; None takes one away.
        """
        self._ids.add(id)
        usual = {
            "id": id,
            "name": name,
            "issuer": self.issuer(number),
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }
        return {key: value for key, value in {**usual, **more}.items() if value is not None}

    def know(self, base_url: str) -> None:
        """Let a home server be their client, from the next start on."""
        self._base_urls.append(base_url)

    def start(self) -> OidcProviders:
        """Start it, and wait until both listen."""
        settings = [{"port": port, "clients": self._clients()} for port in self.ports]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._node, "provider.mjs", json.dumps(settings)],
                cwd=FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        wait_until("the OpenID providers to listen", lambda: all(map(_listens, self.ports)))
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _clients(self) -> list[Mapping[str, object]]:
        """What a home server is there: once as it shows its secret in the header, and once in the body."""
        uris = [f"{base}/_matrix/client/pages/oauth2/return/{one}" for base in self._base_urls for one in self._ids]
        return [
            {
                "client_id": client_id,
                "client_secret": CLIENT_SECRET,
                "redirect_uris": uris,
                "token_endpoint_auth_method": method,
            }
            for client_id, method in (
                (CLIENT_ID, "client_secret_basic"),
                (f"{CLIENT_ID}_post", "client_secret_post"),
            )
        ]


def _listens(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/.well-known/openid-configuration")
        return connection.getresponse().status == 200
    except (ConnectionError, TimeoutError):
        return False
    finally:
        connection.close()


class _Stay(HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *arguments: object) -> None:
        return None


def authorize(uri: str, name: str, *, allow: bool = True) -> str:
    """Log in at a provider, and allow it to tell who one is, or not.

    :param uri: of the authorization request.
    :returns: where the provider sends one back to, which is not visited.
    """
    visitor = build_opener(HTTPCookieProcessor(), _Stay())
    here = urlsplit(uri).netloc
    content, place = _open(visitor, here, uri)
    for _ in range(3):
        if urlsplit(place).netloc != here:
            return place
        if not allow:
            link = re.search(r'href="([^"]+/abort)"', content)
            assert link is not None, content
            content, place = _open(visitor, here, urljoin(place, unescape(link[1])))
            continue
        action = re.search(r'action="([^"]+)"', content)
        assert action is not None, content
        fields = dict(re.findall(r'name="(prompt)" value="(\w+)"', content))
        body = urlencode({**fields, "login": name, "password": "any"}).encode()
        content, place = _open(visitor, here, urljoin(place, unescape(action[1])), body)
    assert urlsplit(place).netloc != here, f"the provider did not send back {name}"
    return place


def _open(visitor: OpenerDirector, here: str, uri: str, body: bytes | None = None) -> tuple[str, str]:
    """Open a page, through redirects as long as they stay here; its content and where it is."""
    for _ in range(10):
        try:
            with visitor.open(uri, body, timeout=20) as answer:
                return answer.read().decode(), uri
        except HTTPError as error:
            target = error.headers["Location"]
            if error.code not in (302, 303) or target is None:
                raise
            uri, body = urljoin(uri, target), None
            if urlsplit(uri).netloc != here:
                return "", uri
    raise AssertionError("redirects without end")


def query_of(uri: str) -> dict[str, str]:
    """The parameters of an address."""
    return dict(parse_qsl(urlsplit(uri).query))
