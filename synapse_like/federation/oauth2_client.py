"""What is asked of OAuth 2 and OpenID Connect providers (LOGIN-7).

The authorization code grant, with PKCE: people are sent to the provider (`authorization_request`) and come back with a
code, for which the provider tells who they are (`claims`). Where its endpoints are is in its OpenID metadata or in the
settings. From a provider whose keys are known an ID token is demanded, and checked; what its userinfo endpoint says is
taken if it speaks of the same person.
"""

# mypy: allow-untyped-calls
# (Authlib is not all annotated.)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus, urlsplit

import orjson
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import Key, KeySet
from msgspec import Struct

from synapse_like.clock import Clock
from synapse_like.federation.agent import Answer
from synapse_like.federation.errors import ServerUnreachable
from synapse_like.federation.web_client import WebClient
from synapse_like.logs import get_logger
from synapse_like.protocol.errors import Forbidden

#: For how long what a provider tells of itself is believed, and after what time its keys may be asked for again because
#: of one that is not among them, in seconds.
REMEMBERED, KEY_PAUSE = 3600.0, 60.0
#: How far the clock of a provider may be off, in seconds.
LEEWAY = 60
#: By a secret that both sides know nothing is signed here, and by nothing at all neither.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
#: Hosts to which one may speak without TLS.
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_OPENID = "openid"

_log = get_logger(__name__)


class Endpoints(Struct, frozen=True):
    """Where a provider is asked what.

    :ivar issuer: who signs its ID tokens; None if there are none.
    :ivar jwks: where the keys are by which it does.
    :ivar names_issuer: whether it says who it is when people come back from it.
    """

    issuer: str | None
    authorization: str
    token: str
    userinfo: str | None
    jwks: str | None
    names_issuer: bool = False


class Registered(Struct, frozen=True):
    """How this server is known at a provider.

    :ivar is_secret_in_body: whether the secret is shown in the body, and not in the header.
    :ivar redirect_uri: where people come back.
    """

    client_id: str
    client_secret: str
    is_secret_in_body: bool
    scopes: Sequence[str]
    redirect_uri: str


class OAuth2Client:
    """Asks one provider.

    :param name: what people know the provider by.
    :param source: its issuer identifier, from which the endpoints are found out, or the endpoints.
    """

    def __init__(
        self, web: WebClient, clock: Clock, name: str, source: str | Endpoints, registered: Registered
    ) -> None:
        self._web = web
        self._clock = clock
        self._name = name
        self._source = source
        self._registered = registered
        self._found: tuple[Endpoints, float] | None = None
        self._keys: tuple[list[Key], float] = ([], 0.0)

    async def authorization_request(self, state: str, nonce: str, verifier: str) -> str:
        """The address at the provider where people allow us to know who they are.

        :param state, nonce, verifier: fresh secrets, of which `claims` wants the last two.
        :raises ServerUnreachable: the provider does not tell where that is.
        """
        endpoints = await self._endpoints()
        uri: str = prepare_grant_uri(
            endpoints.authorization,
            client_id=self._registered.client_id,
            response_type="code",
            redirect_uri=self._registered.redirect_uri,
            scope=list(self._registered.scopes),
            state=state,
            nonce=nonce if self._wants_id_token(endpoints) else None,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return uri

    async def claims(self, code: str, issuer: str | None, nonce: str, verifier: str) -> dict[str, Any]:
        """Who has come back from the provider, by all that it says of them.

        :param code, issuer: what they came back with (`code` and `iss`).
        :raises Forbidden: the code is not good, or was not meant for us.
        :raises ServerUnreachable: the provider cannot be asked, or makes no sense.
        """
        endpoints = await self._endpoints()
        is_other = issuer is not None and issuer != endpoints.issuer
        if endpoints.issuer is not None and (is_other or (issuer is None and endpoints.names_issuer)):
            raise Forbidden("This answer is not from the provider that was asked.", reason=f"it names {issuer!r}")
        tokens = await self._tokens(endpoints, code, verifier)
        access_token = tokens.get("access_token")
        if not isinstance(access_token, str) or str(tokens.get("token_type")).lower() != "bearer":
            raise self._nonsense(endpoints.token, "it gave no bearer token")
        known: dict[str, Any] = {}
        if self._wants_id_token(endpoints):
            known = await self._id_token(endpoints, tokens.get("id_token"), nonce, access_token)
        if endpoints.userinfo is not None:
            told = await self._userinfo(endpoints.userinfo, access_token)
            if known and told.get("sub") != known["sub"]:
                raise self._nonsense(endpoints.userinfo, "it speaks of somebody else than the ID token")
            known = {**told, **known}
        return known

    def _wants_id_token(self, endpoints: Endpoints) -> bool:
        has_keys = endpoints.issuer is not None and endpoints.jwks is not None
        return has_keys and (_OPENID in self._registered.scopes or endpoints.userinfo is None)

    # What it tells of itself.

    async def _endpoints(self) -> Endpoints:
        if isinstance(self._source, Endpoints):
            return self._source
        now = self._clock.monotonic()
        if self._found is None or now - self._found[1] > REMEMBERED:
            url = get_well_known_url(self._source, external=True)
            self._found = self._read_metadata(self._source, url, await self._get(url)), now
        return self._found[0]

    def _read_metadata(self, issuer: str, url: str, metadata: Mapping[str, Any]) -> Endpoints:
        if metadata.get("issuer") != issuer:
            raise self._nonsense(url, f"it says that it is {str(metadata.get('issuer'))[:200]!r}")
        where = {key: metadata.get(key) for key in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
        userinfo = metadata.get("userinfo_endpoint")
        for key, value in {**where, **({} if userinfo is None else {"userinfo_endpoint": userinfo})}.items():
            if not isinstance(value, str) or not _is_safe(value):
                raise self._nonsense(url, f"its {key} is {str(value)[:200]!r}")
        return Endpoints(
            issuer,
            str(where["authorization_endpoint"]),
            str(where["token_endpoint"]),
            userinfo,
            str(where["jwks_uri"]),
            metadata.get("authorization_response_iss_parameter_supported") is True,
        )

    # Who somebody is.

    async def _tokens(self, endpoints: Endpoints, code: str, verifier: str) -> Mapping[str, Any]:
        registered = self._registered
        body = prepare_token_request(
            "authorization_code", "", registered.redirect_uri, code=code, code_verifier=verifier
        )
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if registered.is_secret_in_body:
            auth = ClientAuth(registered.client_id, registered.client_secret, "client_secret_post")
        else:
            # RFC 6749, 2.3.1: encoded as in a form before they go into the header.
            auth = ClientAuth(quote_plus(registered.client_id), quote_plus(registered.client_secret))
        url, headers, body = auth.prepare("POST", endpoints.token, headers, body)
        answer = await self._web.request("POST", url, headers=headers, body=body.encode())
        found = self._object(url, answer)
        fault = found.get("error")
        if fault == "invalid_grant":
            raise Forbidden(
                f"{self._name} does not confirm this login: it was used already, or has expired. Please start again.",
                reason=f"the provider said {str(found)[:200]}",
            )
        if answer.status != 200 or fault is not None:
            raise self._nonsense(url, f"it answered {answer.status} with {answer.body[:200]!r}")
        return found

    async def _id_token(self, endpoints: Endpoints, text: object, nonce: str, access_token: str) -> dict[str, Any]:
        if not isinstance(text, str) or endpoints.jwks is None:
            raise self._nonsense(endpoints.token, "it gave no ID token")
        try:
            token = await self._verified(endpoints.jwks, text)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": endpoints.issuer or ""},
                    "aud": {"value": self._registered.client_id},
                },
                {"nonce": nonce, "client_id": self._registered.client_id, "access_token": access_token},
            )
            claims.validate(now=self._clock.now_ms() // 1000, leeway=LEEWAY)
        except JoseError as error:
            raise Forbidden(
                f"{self._name} does not confirm this login. Please start again.", reason=f"the ID token: {error}"
            ) from error
        return dict(claims)

    async def _verified(self, jwks: str, text: str) -> jwt.Token:
        """An ID token whose signature is right.

        :raises JoseError: it is not.
        """
        key_id = jws.extract_compact(text.encode()).headers().get("kid")
        keys = self._known_keys(key_id)
        if not keys and self._may_ask_for_keys():
            self._keys = self._read_keys(jwks, await self._get(jwks)), self._clock.monotonic()
            keys = self._known_keys(key_id)
        for key in keys:
            try:
                return jwt.decode(text, key, algorithms=ALGORITHMS)
            except BadSignatureError:
                continue
        raise BadSignatureError

    def _known_keys(self, key_id: object) -> list[Key]:
        keys, asked_at = self._keys
        if self._clock.monotonic() - asked_at > REMEMBERED:
            return []
        return [key for key in keys if key_id is None or key.kid == key_id]

    def _may_ask_for_keys(self) -> bool:
        keys, asked_at = self._keys
        return not keys or self._clock.monotonic() - asked_at > KEY_PAUSE

    def _read_keys(self, url: str, found: Mapping[str, Any]) -> list[Key]:
        keys: list[Key] = []
        for one in found.get("keys") or ():
            if isinstance(one, dict) and one.get("use", "sig") == "sig" and one.get("kty") != "oct":
                try:
                    keys += KeySet.import_key_set({"keys": [one]}).keys
                except (JoseError, ValueError, TypeError, KeyError) as error:
                    # It may have keys of kinds that are not known here.
                    _log.info("a key of an OAuth 2 provider cannot be used", url=url, reason=str(error))
        return keys

    async def _userinfo(self, url: str, access_token: str) -> Mapping[str, Any]:
        return await self._get(url, {"Authorization": f"Bearer {access_token}"})

    # Asking.

    async def _get(self, url: str, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        answer = await self._web.request("GET", url, headers={"Accept": "application/json", **(headers or {})})
        if answer.status != 200:
            raise self._nonsense(url, f"it answered {answer.status} with {answer.body[:200]!r}")
        return self._object(url, answer)

    def _object(self, url: str, answer: Answer) -> Mapping[str, Any]:
        try:
            found = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise self._nonsense(url, f"it answered {answer.status} with what is no JSON object")
        return found

    def _nonsense(self, url: str, reason: str) -> ServerUnreachable:
        """The provider does not do what it should: it was set up wrongly, here or there."""
        _log.warning("an OAuth 2 provider cannot be used", provider=self._name, url=url, reason=reason)
        return ServerUnreachable(urlsplit(url).netloc, reason)


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)
