"""What can be asked of the identity server: bodies read, answers made (ID-1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from msgspec import Meta

from synapse_like.http.pages.rendering import page
from synapse_like.http.requests import Call, is_form
from synapse_like.identity.associations import ALGORITHM, Associations
from synapse_like.identity.invites import Invites
from synapse_like.identity.peers import Peer
from synapse_like.identity.replication import PushBody, Replication
from synapse_like.identity.signer import Signer
from synapse_like.identity.user_keys import UserKeys
from synapse_like.identity.validations import Limits, Validations
from synapse_like.models import Model, Unfit
from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import BadJson, BadParam, Forbidden, MatrixError, NotFound
from synapse_like.protocol.identifiers import canonical_user_id, historical_room_id, parse_room_id
from synapse_like.protocol.third_party_ids import (
    EMAIL,
    PHONE,
    ThirdPartyId,
    phone_number,
    third_party_id,
)

#: Addresses that may be looked up in one request.
MOST_LOOKED_UP = 1000
#: The class of the rate limit for look-ups; each address counts.
LOOKUP = "lookup"
#: What clients choose as a secret, and names that we gave out ourselves.
_SECRET = re.compile(r"[0-9A-Za-z.=_-]{1,255}")
_OWN = re.compile(r"[0-9A-Za-z_-]{1,64}")
_HASH = re.compile(r"[0-9A-Za-z_-]{43}")
_PUBLIC_KEY = re.compile(r"[0-9A-Za-z+/=_-]{1,100}")
_KEY_ID = re.compile(r"ed25519:[0-9A-Za-z_]{1,64}")

Secret = Annotated[str, Meta(pattern=f"^{_SECRET.pattern}$")]
Attempt = Annotated[int, Meta(ge=1, le=2**31)]
Sid = Annotated[str, Meta(pattern=f"^{_OWN.pattern}$")]


class _Body(Model, frozen=True):
    """Fields of an object or a form, in which numbers are text, too."""

    # Clients of the day spell these in one way or the other.
    others: ClassVar[Mapping[str, str]] = {
        "clientSecret": "client_secret",
        "sendAttempt": "send_attempt",
        "nextLink": "next_link",
    }
    is_strict: ClassVar[bool] = False


class RequestEmailBody(_Body, frozen=True):
    """An e-mail address to be validated."""

    email: str
    client_secret: Secret
    send_attempt: Attempt
    next_link: str | None = None


class RequestPhoneBody(_Body, frozen=True, kw_only=True):
    """A phone number to be validated; with a country, as it is dialled there."""

    phone_number: str
    country: str | None = None
    client_secret: Secret
    send_attempt: Attempt
    next_link: str | None = None


class SubmitBody(_Body, frozen=True):
    """The token of a message."""

    sid: Sid
    client_secret: Secret
    token: str


class BindBody(_Body, frozen=True):
    """An address that was proven, and whose it shall be."""

    sid: Sid
    client_secret: Secret
    mxid: str


class ThreepidBody(Model, frozen=True):
    """An address."""

    medium: str
    address: str


class UnbindBody(_Body, frozen=True):
    """An address that shall be nobody's.

    :ivar sid, client_secret: of a validation, if it is not the user's home server that asks.
    """

    mxid: str
    threepid: ThreepidBody
    sid: Sid | None = None
    client_secret: Secret | None = None


class BulkLookupBody(Model, frozen=True):
    """Addresses: pairs of medium and address."""

    threepids: Annotated[list[tuple[str, str]], Meta(max_length=MOST_LOOKED_UP)]


class HashedLookupBody(Model, frozen=True):
    """Hashes of addresses."""

    addresses: Annotated[list[str], Meta(max_length=MOST_LOOKED_UP)]
    algorithm: str
    pepper: str

    def __post_init__(self) -> None:
        if not all(_HASH.fullmatch(text) for text in self.addresses):
            raise Unfit("addresses", "must be SHA-256 hashes in URL-safe base64")


class StoreInviteBody(_Body, frozen=True):
    """An invite to a room for an address."""

    medium: str
    address: str
    room_id: str
    sender: str


class PublishKeysBody(_Body, frozen=True):
    """The keys of the user who has an address that was proven."""

    sid: Sid
    client_secret: Secret
    keys: dict[str, Any]


class IdentityEndpoints:
    """/_matrix/identity/api/v1 and what siblings ask."""

    def __init__(
        self,
        signer: Signer,
        validations: Validations,
        associations: Associations,
        user_keys: UserKeys,
        invites: Invites,
        replication: Replication,
        limits: Limits,
        public_url: str,
    ) -> None:
        self._signer = signer
        self._validations = validations
        self._associations = associations
        self._user_keys = user_keys
        self._invites = invites
        self._replication = replication
        self._limits = limits
        self._public_url = public_url

    async def ping(self, call: Call[Peer]) -> object:
        """Whether there is an identity server here, and which."""
        return {"server_name": self._signer.name}

    # Validating.

    async def request_email(self, call: Call[Peer]) -> object:
        """Send a mail to an address."""
        body: RequestEmailBody = call.body
        threepid = ThirdPartyId(EMAIL, _or_errcode("M_INVALID_EMAIL", canonical_email, body.email))
        sid = await self._validations.begin(threepid, body.client_secret, body.send_attempt, body.next_link)
        return {"sid": sid}

    async def request_phone(self, call: Call[Peer]) -> object:
        """Send a text message to a phone."""
        body: RequestPhoneBody = call.body
        number = _or_errcode("M_INVALID_PHONE_NUMBER", phone_number, body.phone_number, body.country)
        sid = await self._validations.begin(
            ThirdPartyId(PHONE, number), body.client_secret, body.send_attempt, body.next_link
        )
        return {"sid": sid, "msisdn": number}

    async def show_submit(self, call: Call[Peer]) -> object:
        """What is behind the link of a message: a page that asks for a click; for a program that says so, the deed."""
        given = {name: _required(call, name, shape) for name, shape in _SUBMITTED.items()}
        if _wants_json(call):
            await self._validations.submit(call.params["medium"], **given)
            return {"success": True}
        return page("identity_confirm.html", server_name=self._signer.name, fields=given)

    async def submit(self, call: Call[Peer]) -> object:
        """Take the token of a message, from that page or from a program."""
        body: SubmitBody = call.body
        is_page = is_form(call.header("Content-Type")) and "text/html" in (call.header("Accept") or "")
        try:
            validation = await self._validations.submit(call.params["medium"], body.sid, body.client_secret, body.token)
        except MatrixError as error:
            if is_page:
                return page("refusal.html", status=error.status, message=error.message)
            raise
        if not is_page:
            return {"success": True}
        # A stranger may have chosen where to go on to: one is not led there, and sees where that is.
        link = validation.next_link
        return page("identity_confirmed.html", next_link=link, next_host=urlsplit(link).netloc if link else None)

    async def validated(self, call: Call[Peer]) -> object:
        """The address that was proven."""
        sid, secret = _required(call, "sid", _OWN), _required(call, "client_secret", _SECRET)
        validation = await self._validations.proven(sid, secret)
        return {**validation.threepid._asdict(), "validated_at": validation.validated_at}

    # Giving and taking.

    async def bind(self, call: Call[Peer]) -> object:
        """Give an address to a user."""
        body: BindBody = call.body
        return await self._associations.bind(body.sid, body.client_secret, canonical_user_id(body.mxid))

    async def unbind(self, call: Call[Peer]) -> object:
        """Take an address from a user."""
        body: UnbindBody = call.body
        peer = call.requester_if_any
        proof = None
        if body.sid is not None and body.client_secret is not None:
            proof = body.sid, body.client_secret
        await self._associations.unbind(
            third_party_id(body.threepid.medium, body.threepid.address),
            canonical_user_id(body.mxid),
            home_server=None if peer is None or peer.is_sibling else peer.name,
            proof=proof,
        )
        return {}

    # Looking up.

    async def lookup(self, call: Call[Peer]) -> object:
        """Whose one address is; nothing if it is nobody's."""
        threepid = third_party_id(call.query.required("medium"), call.query.required("address"))
        self._limits.check(LOOKUP, call.client_address)
        return (await self._associations.find([threepid])).get(threepid, {})

    async def bulk_lookup(self, call: Call[Peer]) -> object:
        """Whose some addresses are; those that are nobody's are left out, and so is what is no address."""
        body: BulkLookupBody = call.body
        self._limits.check(LOOKUP, call.client_address, len(body.threepids) or 1)
        asked = [(medium, address, _if_address(medium, address)) for medium, address in body.threepids]
        found = await self._associations.find(list({threepid for *_, threepid in asked if threepid is not None}))
        return {
            "threepids": [
                [medium, address, found[threepid]["mxid"]]
                for medium, address, threepid in asked
                if threepid is not None and threepid in found
            ]
        }

    async def hash_details(self, call: Call[Peer]) -> object:
        """How to hash addresses."""
        return {"algorithms": [ALGORITHM], "lookup_pepper": await self._associations.pepper()}

    async def hashed_lookup(self, call: Call[Peer]) -> object:
        """Whose those addresses are that some hashes stand for."""
        body: HashedLookupBody = call.body
        self._limits.check(LOOKUP, call.client_address, len(body.addresses) or 1)
        return {"mappings": await self._associations.find_hashed(body.addresses, body.algorithm, body.pepper)}

    # Keys.

    async def public_key(self, call: Call[Peer]) -> object:
        """A key of this server."""
        key = self._signer.known_key(call.params["key_id"])
        if key is None:
            raise NotFound("This server has no such key.")
        return {"public_key": key}

    async def is_valid(self, call: Call[Peer]) -> object:
        """Whether a key is the one by which this server signs."""
        return {"valid": self._signer.signs_with(_required(call, "public_key", _PUBLIC_KEY))}

    async def is_valid_ephemeral(self, call: Call[Peer]) -> object:
        """Whether a key is that of an invite."""
        return {"valid": await self._invites.has_key(_required(call, "public_key", _PUBLIC_KEY))}

    async def publish_keys(self, call: Call[Peer]) -> object:
        """Keep the keys of a user."""
        body: PublishKeysBody = call.body
        await self._user_keys.publish(body.sid, body.client_secret, body.keys)
        return {}

    async def keys_of_user(self, call: Call[Peer]) -> object:
        """The keys of a user, or of whoever has an address."""
        self._limits.check(LOOKUP, call.client_address)
        mxid = call.query.text("mxid")
        if mxid is not None:
            return {"user_keys": await self._user_keys.of_user(canonical_user_id(mxid))}
        threepid = third_party_id(call.query.required("medium"), call.query.required("address"))
        return {"user_keys": [await self._user_keys.of_address(threepid)]}

    # Invites.

    async def store_invite(self, call: Call[Peer]) -> object:
        """Keep an invite for an address that is nobody's."""
        body: StoreInviteBody = call.body
        room_id = historical_room_id(body.room_id) if ":" in body.room_id else parse_room_id(body.room_id)
        kept = await self._invites.keep(
            third_party_id(body.medium, body.address), room_id, canonical_user_id(body.sender)
        )
        prefix = f"{self._public_url}/_matrix/identity/api/v1/pubkey"
        own = {"public_key": self._signer.public_key, "key_validity_url": f"{prefix}/isvalid"}
        of_invite = {"public_key": kept.own_key, "key_validity_url": f"{prefix}/ephemeral/isvalid"}
        return {
            "token": kept.token,
            "public_key": self._signer.public_key,
            "public_keys": [own, of_invite],
            "display_name": kept.display_name,
        }

    # Siblings.

    async def push(self, call: Call[Peer]) -> object:
        """Hear what a sibling knows."""
        if not call.requester.is_sibling:
            raise Forbidden("Only siblings may tell this server what they know.")
        body: PushBody = call.body
        return {"position": await self._replication.hear(call.requester.name, body)}


_SUBMITTED = {"sid": _OWN, "client_secret": _SECRET, "token": _OWN}
_OTHER_SPELLING = {"client_secret": "clientSecret"}


def _required(call: Call[Peer], name: str, shape: re.Pattern[str]) -> str:
    """A parameter of the query, in either spelling.

    :raises BadParam: it is missing, or has characters or a length that it cannot have.
    """
    value = call.query.text(name)
    if value is None:
        value = call.query.text(_OTHER_SPELLING.get(name, name))
    if value is None:
        raise BadParam(f"The parameter {name} is missing.")
    if not shape.fullmatch(value):
        raise BadParam(f"The parameter {name} has a value that it cannot have.")
    return value


def _wants_json(call: Call[Peer]) -> bool:
    """Whether a client can read JSON and no page. What takes anything (`*/*`) may be a program that reads mail."""
    accept = call.header("Accept") or ""
    return "application/json" in accept and "text/html" not in accept


def _or_errcode(errcode: str, parse: Any, *texts: object) -> str:
    """What a function makes of a text, or its complaint with a code of its own."""
    try:
        made: str = parse(*texts)
    except BadJson as error:
        raise MatrixError(400, errcode, error.message, reason=error.reason) from error
    return made


def _if_address(medium: str, address: str) -> ThirdPartyId | None:
    try:
        return third_party_id(medium, address)
    except BadJson:
        return None
