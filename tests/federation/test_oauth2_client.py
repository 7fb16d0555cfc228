"""What providers of OAuth 2 may say, and what is not believed (LOGIN-7).

Honest providers are in tests/scenarios/test_login_by_oauth2.py; the one here lies.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, parse_qsl, urlsplit

import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from twisted.internet.task import Clock

from synapse_like.clock import ReactorClock
from synapse_like.federation.agent import Answer
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.oauth2_client import KEY_PAUSE, REMEMBERED, Endpoints, OAuth2Client, Registered
from synapse_like.federation.web_client import WebClient
from synapse_like.protocol.errors import Forbidden

ISSUER = "https://id.example"
CLIENT_ID = "us & them"
SECRET = "a:b+c"
NOW = 1_700_000_000
NONCE, VERIFIER, TOKEN = "n" * 43, "v" * 43, "the access token"
REDIRECT_URI = "https://us.example/return"

Found = TypeVar("Found")
Json = dict[str, Any]

RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"}, private=True)
EC = ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"}, private=True)
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)


def run(asking: Coroutine[Any, Any, Found]) -> Found:
    """What comes of a coroutine that waits for nothing."""
    try:
        asking.send(None)
    except StopIteration as end:
        return cast(Found, end.value)
    raise AssertionError("it waits")


class LyingProvider:
    """A provider, and what it answers; stands in for the web."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Mapping[str, str], Json]] = []
        self.metadata: Json = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth?tenant=1",
            "token_endpoint": f"{ISSUER}/token",
            "userinfo_endpoint": f"{ISSUER}/me",
            "jwks_uri": f"{ISSUER}/keys",
        }
        self.keys: list[Any] = [RSA.as_dict(private=False), EC.as_dict(private=False)]
        self.tokens: Json = {"access_token": TOKEN, "token_type": "Bearer", "id_token": id_token()}
        self.userinfo: Json = {"sub": "alice", "name": "Alice", "email": "alice@example.org"}
        self.answers: dict[str, tuple[int, Any]] = {}

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        path = urlsplit(url).path
        self.asked.append((method, path, headers or {}, dict(parse_qsl((body or b"").decode()))))
        usual: dict[str, Any] = {
            "/.well-known/openid-configuration": self.metadata,
            "/token": self.tokens,
            "/me": self.userinfo,
            "/keys": {"keys": self.keys},
        }
        status, said = self.answers.get(path, (200, usual.get(path)))
        return Answer(status, said if isinstance(said, bytes) else orjson.dumps(said))

    def times(self, path: str) -> int:
        """How often it was asked for something."""
        return sum(asked == path for _, asked, _, _ in self.asked)


def id_token(key: RSAKey | ECKey = RSA, algorithm: str = "RS256", header: Json | None = None, **claims: Any) -> str:
    """An ID token that is right but for some claims; None takes one away."""
    usual = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": CLIENT_ID,
        "iat": NOW,
        "exp": NOW + 600,
        "nonce": NONCE,
        "preferred_username": "alice",
    }
    said = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode({"alg": algorithm, "kid": "rsa", **(header or {})}, said, key, algorithms=[algorithm])


def signed_by_secret(secret: bytes) -> str:
    """A token that is right, but signed by what both sides know."""

    def encode(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    signed = encode(b'{"alg":"HS256","kid":"rsa"}') + b"." + id_token().encode().split(b".")[1]
    return (signed + b"." + encode(hmac.digest(secret, signed, "sha256"))).decode()


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def provider() -> LyingProvider:
    return LyingProvider()


def client_of(provider: LyingProvider, clock: Clock, source: str | Endpoints = ISSUER, **more: Any) -> OAuth2Client:
    registered = Registered(
        **{
            "client_id": CLIENT_ID,
            "client_secret": SECRET,
            "is_secret_in_body": False,
            "scopes": ("openid", "email"),
            "redirect_uri": REDIRECT_URI,
            **more,
        }
    )
    return OAuth2Client(cast(WebClient, provider), ReactorClock(clock), "Example", source, registered)


@pytest.fixture
def client(provider: LyingProvider, clock: Clock) -> OAuth2Client:
    return client_of(provider, clock)


def claims(client: OAuth2Client, issuer: str | None = None) -> Json:
    return run(client.claims("the code", issuer, NONCE, VERIFIER))


def test_what_is_asked_of_an_honest_provider(provider: LyingProvider, client: OAuth2Client) -> None:
    uri = run(client.authorization_request("the state", NONCE, VERIFIER))
    assert uri.startswith(f"{ISSUER}/auth?tenant=1&")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(uri).query).items()}
    assert (asked["client_id"], asked["redirect_uri"], asked["scope"]) == (CLIENT_ID, REDIRECT_URI, "openid email")
    assert (asked["state"], asked["nonce"], asked["response_type"]) == ("the state", NONCE, "code")
    # RFC 7636, 4.2: of 43 times "v".
    assert (asked["code_challenge_method"], len(asked["code_challenge"])) == ("S256", 43)
    assert VERIFIER not in uri

    known = claims(client)
    assert (known["sub"], known["preferred_username"], known["email"]) == ("alice", "alice", "alice@example.org")
    method, _, headers, form = next(asked for asked in provider.asked if asked[1] == "/token")
    assert method == "POST"
    assert form == {
        "grant_type": "authorization_code",
        "code": "the code",
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
    }
    # RFC 6749, 2.3.1: each half is encoded as in a form.
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"us+%26+them:a%3Ab%2Bc").decode()
    headers = next(headers for _, path, headers, _ in provider.asked if path == "/me")
    assert headers["Authorization"] == f"Bearer {TOKEN}"


def test_secret_goes_into_the_body_where_that_is_wanted(provider: LyingProvider, clock: Clock) -> None:
    claims(client_of(provider, clock, is_secret_in_body=True))
    _, _, headers, form = next(asked for asked in provider.asked if asked[1] == "/token")
    assert "Authorization" not in headers
    assert (form["client_id"], form["client_secret"]) == (CLIENT_ID, SECRET)


@pytest.mark.parametrize(
    "token",
    [
        id_token(iss="https://evil.example"),
        id_token(iss=None),
        id_token(aud="somebody else"),
        id_token(aud="somebody else", azp=CLIENT_ID),
        id_token(aud=None),
        id_token(aud=["somebody else", "another"]),
        id_token(aud=[CLIENT_ID, "somebody else"]),
        id_token(azp="somebody else"),
        id_token(nonce="m" * 43),
        id_token(nonce=None),
        id_token(exp=NOW - 120),
        id_token(exp=None),
        id_token(iat=NOW + 600),
        id_token(iat=None),
        id_token(nbf=NOW + 600),
        id_token(sub=None),
        id_token(sub=7),
        id_token(at_hash="bm90IHRoaXMgb25lIQ"),
        id_token(STRANGER),
        id_token(header={"kid": "unknown"}),
        signed_by_secret(SECRET.encode()),
        # The public key taken as a secret.
        signed_by_secret(RSA.as_pem(private=False)),
        # eyJhbGciOiJub25lIn0 is {"alg":"none"}.
        "eyJhbGciOiJub25lIn0." + id_token().split(".")[1] + ".",
        ".".join([*id_token().split(".")[:2], ""]),
        id_token()[:-8] + "AAAAAAAA",
        "nonsense",
        "a.b.c",
        "",
        "é",
    ],
)
def test_false_id_tokens_are_refused(provider: LyingProvider, client: OAuth2Client, token: str) -> None:
    provider.tokens["id_token"] = token
    with pytest.raises(Forbidden):
        claims(client)
    assert provider.times("/me") == 0, "nor is anything asked by their help"


@pytest.mark.parametrize(
    "token",
    [
        id_token(EC, "ES256", {"kid": "ec"}),
        id_token(RSA, "PS256"),
        id_token(aud=[CLIENT_ID]),
        id_token(aud=[CLIENT_ID, "somebody else"], azp=CLIENT_ID),
        id_token(exp=NOW - 30),
    ],
)
def test_right_id_tokens_of_other_kinds_are_taken(provider: LyingProvider, client: OAuth2Client, token: str) -> None:
    provider.tokens["id_token"] = token
    assert claims(client)["sub"] == "alice"


def test_token_that_names_no_key_is_checked_by_all(provider: LyingProvider, client: OAuth2Client) -> None:
    said = {"iss": ISSUER, "sub": "bob", "aud": CLIENT_ID, "iat": NOW, "exp": NOW + 600, "nonce": NONCE}
    provider.userinfo = {"sub": "bob"}
    provider.keys = [STRANGER.as_dict(private=False), *provider.keys]
    provider.tokens["id_token"] = jwt.encode({"alg": "RS256"}, said, RSA)
    assert claims(client)["sub"] == "bob"


@pytest.mark.parametrize(
    "tokens",
    [
        {"access_token": TOKEN, "token_type": "Bearer"},
        {"access_token": TOKEN, "token_type": "mac", "id_token": id_token()},
        {"token_type": "Bearer", "id_token": id_token()},
        {"access_token": 7, "token_type": "Bearer", "id_token": id_token()},
        {"access_token": TOKEN, "token_type": "Bearer", "id_token": 7},
        {"error": "invalid_client"},
        [],
    ],
)
def test_answers_without_tokens_are_no_answers(provider: LyingProvider, client: OAuth2Client, tokens: Any) -> None:
    provider.answers["/token"] = (200, tokens)
    with pytest.raises(ServerUnreachable):
        claims(client)


@pytest.mark.parametrize("status", [200, 400])
def test_code_that_is_not_good_is_no_fault_of_the_provider(
    provider: LyingProvider, client: OAuth2Client, status: int
) -> None:
    provider.answers["/token"] = (status, {"error": "invalid_grant"})
    with pytest.raises(Forbidden):
        claims(client)


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/keys", "/me"])
@pytest.mark.parametrize("answer", [(500, {}), (404, b"<h1>Not found</h1>"), (200, b"\xff"), (200, b"[1]"), (302, {})])
def test_nonsense_of_any_kind_is_no_answer(
    provider: LyingProvider, client: OAuth2Client, path: str, answer: tuple[int, Any]
) -> None:
    provider.answers[path] = answer
    with pytest.raises(ServerUnreachable):
        claims(client)


def test_userinfo_of_somebody_else_is_not_mixed_in(provider: LyingProvider, client: OAuth2Client) -> None:
    provider.userinfo = {"sub": "mallory", "email": "alice@example.org", "email_verified": True}
    with pytest.raises(ServerUnreachable):
        claims(client)


def test_id_token_weighs_more_than_userinfo(provider: LyingProvider, client: OAuth2Client) -> None:
    provider.userinfo = {"sub": "alice", "preferred_username": "root"}
    assert claims(client)["preferred_username"] == "alice"


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"issuer": f"{ISSUER}/"},
        {"issuer": None},
        {"token_endpoint": None},
        {"token_endpoint": "http://id.example/token"},
        {"jwks_uri": 7},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"userinfo_endpoint": "file:///etc/passwd"},
    ],
)
def test_false_metadata_is_not_used(provider: LyingProvider, client: OAuth2Client, change: Json) -> None:
    provider.metadata |= change
    with pytest.raises(ServerUnreachable):
        run(client.authorization_request("the state", NONCE, VERIFIER))


def test_who_answers_must_be_who_was_asked(provider: LyingProvider, clock: Clock) -> None:
    """RFC 9207."""
    assert claims(client_of(provider, clock), ISSUER)
    with pytest.raises(Forbidden):
        claims(client_of(provider, clock), "https://evil.example")
    assert claims(client_of(provider, clock), None)
    provider.metadata["authorization_response_iss_parameter_supported"] = True
    assert claims(client_of(provider, clock), ISSUER)
    with pytest.raises(Forbidden):
        claims(client_of(provider, clock), None)


def test_what_a_provider_tells_of_itself_is_remembered_for_a_while(
    provider: LyingProvider, client: OAuth2Client, clock: Clock
) -> None:
    claims(client)
    claims(client)
    assert (provider.times("/.well-known/openid-configuration"), provider.times("/keys")) == (1, 1)
    clock.advance(REMEMBERED + 1)
    provider.tokens["id_token"] = id_token(iat=NOW + REMEMBERED, exp=NOW + REMEMBERED + 600)
    claims(client)
    assert (provider.times("/.well-known/openid-configuration"), provider.times("/keys")) == (2, 2)


def test_keys_are_asked_for_again_when_there_is_a_new_one(
    provider: LyingProvider, client: OAuth2Client, clock: Clock
) -> None:
    claims(client)
    new = RSAKey.generate_key(2048, {"kid": "new"}, private=True)
    provider.tokens["id_token"] = id_token(new, header={"kid": "new"})
    for _ in range(3):
        with pytest.raises(Forbidden):
            claims(client)
    assert provider.times("/keys") == 1, "but not at every token with an unknown key"
    clock.advance(KEY_PAUSE + 1)
    provider.keys.append(new.as_dict(private=False))
    assert claims(client)["sub"] == "alice"
    assert provider.times("/keys") == 2


def test_keys_of_unknown_kinds_are_passed_over(provider: LyingProvider, client: OAuth2Client) -> None:
    strange: list[Any] = [{"kty": "FUTURE", "kid": "rsa"}, {"kty": "RSA", "kid": "rsa"}, 7, {}]
    encrypting = {**STRANGER.as_dict(private=False), "use": "enc"}
    secret = {"kty": "oct", "kid": "rsa", "k": "AAAA"}
    provider.keys = [*strange, encrypting, secret, *provider.keys]
    assert claims(client)["sub"] == "alice"
    provider.tokens["id_token"] = id_token(STRANGER)
    with pytest.raises(Forbidden):
        claims(client)


def test_without_keys_it_is_the_userinfo_that_counts(provider: LyingProvider, clock: Clock) -> None:
    endpoints = Endpoints(None, f"{ISSUER}/auth", f"{ISSUER}/token", f"{ISSUER}/me", None)
    plain = client_of(provider, clock, endpoints, scopes=("user",))
    assert "nonce" not in run(plain.authorization_request("the state", NONCE, VERIFIER))
    provider.tokens = {"access_token": TOKEN, "token_type": "bearer"}
    provider.userinfo = {"id": 7, "login": "alice"}
    assert claims(plain, "https://whoever.example") == {"id": 7, "login": "alice"}
    assert provider.times("/.well-known/openid-configuration") == 0
