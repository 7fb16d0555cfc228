"""The API of the identity server, as tables: `/_matrix/identity/api/v1`, and the path by which siblings replicate.

The hashed look-up, and the details of hashing, are as in a later version of the API. What takes a token of a message
is there as GET and as POST; only POST, or a GET that wants JSON and nothing else, confirms anything.
"""

from __future__ import annotations

from synapse_like.http.routing import Auth, Endpoint, Mount, Route
from synapse_like.identity import replication
from synapse_like.identity.endpoints import (
    BindBody,
    BulkLookupBody,
    HashedLookupBody,
    IdentityEndpoints,
    PublishKeysBody,
    RequestEmailBody,
    RequestPhoneBody,
    StoreInviteBody,
    SubmitBody,
    UnbindBody,
)
from synapse_like.identity.peers import Peer
from synapse_like.identity.replication import PushBody
from synapse_like.models import Model

PREFIX = "/_matrix/identity/api/v1"


def mount_identity(endpoints: IdentityEndpoints) -> list[Mount[Peer]]:
    """All of it."""
    e = endpoints

    def get(path: str, endpoint: Endpoint[Peer], rate: str = "read") -> Route[Peer]:
        return Route("GET", path, endpoint, auth=Auth.NONE, rate=rate)

    def post(
        path: str, endpoint: Endpoint[Peer], body: type[Model], rate: str = "read", auth: Auth = Auth.NONE
    ) -> Route[Peer]:
        return Route("POST", path, endpoint, auth=auth, rate=rate, body=body, forms=True)

    routes: list[Route[Peer]] = [
        get("", e.ping),
        post("/validate/email/requestToken", e.request_email, RequestEmailBody, "validation"),
        post("/validate/msisdn/requestToken", e.request_phone, RequestPhoneBody, "validation"),
        get("/validate/{medium}/submitToken", e.show_submit, "tokens"),
        post("/validate/{medium}/submitToken", e.submit, SubmitBody, "tokens"),
        get("/3pid/getValidated3pid", e.validated),
        post("/3pid/bind", e.bind, BindBody),
        post("/3pid/unbind", e.unbind, UnbindBody, auth=Auth.OPTIONAL),
        # These count by themselves, as many as addresses are asked about.
        get("/lookup", e.lookup),
        post("/bulk_lookup", e.bulk_lookup, BulkLookupBody),
        get("/hash_details", e.hash_details),
        post("/lookup", e.hashed_lookup, HashedLookupBody),
        get("/pubkey/isvalid", e.is_valid),
        get("/pubkey/ephemeral/isvalid", e.is_valid_ephemeral),
        get("/pubkey/{key_id}", e.public_key),
        get("/user_keys", e.keys_of_user),
        post("/user_keys", e.publish_keys, PublishKeysBody),
        post("/store-invite", e.store_invite, StoreInviteBody, "invites"),
    ]
    push: Route[Peer] = Route(
        "POST", replication.PATH, e.push, rate="siblings", body=PushBody, max_body=replication.MOST_BYTES
    )
    return [Mount(PREFIX, routes, cors=True), Mount("", [push])]
