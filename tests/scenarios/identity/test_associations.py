"""Whose an address is: bound, looked up plainly and by hashes, unbound; keys of the server and of users (ID-1)."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest
from signedjson.key import decode_verify_key_bytes, encode_verify_key_base64, generate_signing_key, get_verify_key
from signedjson.sign import SignatureVerifyException, sign_json, verify_signed_json
from unpaddedbase64 import decode_base64

from tests.scenarios.conftest import Unique
from tests.scenarios.identity.conftest import IdentityServers
from tests.support.client import refused
from tests.support.identity import IdentityServer
from tests.support.processes import wait_until


def hashed(address: str, pepper: str, medium: str = "email") -> str:
    digest = sha256(f"{address} {medium} {pepper}".encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def check_signed(server: IdentityServer, statement: dict[str, Any]) -> None:
    """See that a statement is signed by the key that the server publishes."""
    [key_id] = statement["signatures"][server.name]
    key = server.call("GET", f"/pubkey/{key_id}")["public_key"]
    verify_signed_json(statement, server.name, decode_verify_key_bytes(key_id, decode_base64(key)))


def test_bound_address_is_found_by_a_signed_association(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: bind, signed associations, single look-up."""
    email, mxid = f"{unique('alice')}@example.org", f"@{unique('alice')}:example.org"
    assert identity.call("GET", "/lookup", medium="email", address=email) == {}
    association = identity.bind(email, mxid)
    assert {association[name] for name in ("medium", "address", "mxid")} == {"email", email, mxid}
    assert association["not_before"] <= association["ts"] <= association["not_after"]
    check_signed(identity, association)
    found = identity.call("GET", "/lookup", medium="email", address=email.upper())
    assert found == association
    with pytest.raises(SignatureVerifyException):
        check_signed(identity, found | {"mxid": "@mallory:example.org"})


def test_binding_again_by_the_same_session_changes_nothing(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: a request that is made again, and two at once, bind once."""
    sid, secret = identity.validate(f"{unique('alice')}@example.org")
    body = {"sid": sid, "client_secret": secret, "mxid": "@Alice:example.org"}
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda _: identity.call("POST", "/3pid/bind", body), range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["mxid"] == "@alice:example.org"


def test_only_who_proved_an_address_binds_it(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: no binding without validation."""
    email = f"{unique('alice')}@example.org"
    sid, secret = identity.begin(email)
    identity.mail_to(email)
    for body, status, errcode in (
        ({"sid": sid, "client_secret": secret, "mxid": "@alice:a"}, 400, "M_SESSION_NOT_VALIDATED"),
        ({"sid": sid, "client_secret": "wrong", "mxid": "@alice:a"}, 404, "M_NO_VALID_SESSION"),
        ({"sid": "unknown", "client_secret": secret, "mxid": "@alice:a"}, 404, "M_NO_VALID_SESSION"),
        ({"sid": sid, "client_secret": secret, "mxid": "alice"}, 400, "M_BAD_JSON"),
        ({"sid": sid, "client_secret": secret}, 400, "M_BAD_JSON"),
    ):
        with refused(status, errcode):
            identity.call("POST", "/3pid/bind", body)
    assert identity.lookup(email) is None


def test_many_are_looked_up_at_once(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: bulk look-up."""
    emails = [f"{unique('bulk')}@example.org" for _ in range(3)]
    for number, email in enumerate(emails):
        identity.bind(email, f"@bulk{number}:example.org")
    asked = [["email", email] for email in emails] + [["email", "nobody@example.org"], ["email", "x"], ["fax", "5"]]
    found = identity.call("POST", "/bulk_lookup", {"threepids": asked})["threepids"]
    assert found == [["email", email, f"@bulk{number}:example.org"] for number, email in enumerate(emails)]
    with refused(400, "M_BAD_JSON"):
        identity.call("POST", "/bulk_lookup", {"threepids": [["email", "a@b"]] * 1001})
    assert identity.call("POST", "/bulk_lookup", {"threepids": []}) == {"threepids": []}


def test_hashes_find_an_address_without_telling_it(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: hashed look-up with the pepper of the day."""
    email = f"{unique('alice')}@example.org"
    identity.bind(email, "@alice:example.org")
    details = identity.call("GET", "/hash_details")
    assert details["algorithms"] == ["sha256"]
    pepper = details["lookup_pepper"]
    right, wrong = hashed(email, pepper), hashed("nobody@example.org", pepper)
    body = {"addresses": [right, wrong], "algorithm": "sha256", "pepper": pepper}
    assert identity.call("POST", "/lookup", body) == {"mappings": {right: "@alice:example.org"}}
    with refused(400, "M_INVALID_PEPPER"):
        identity.call("POST", "/lookup", body | {"pepper": "another"})
    answer = identity.request("POST", "/lookup", body | {"pepper": "another"})
    assert answer.json["lookup_pepper"] == pepper
    with refused(400, "M_INVALID_PARAM"):
        identity.call("POST", "/lookup", body | {"algorithm": "none"})
    for addresses in (["short"], [email], ["\0" * 43], "x" * 43):
        with refused(400, "M_BAD_JSON"):
            identity.call("POST", "/lookup", body | {"addresses": addresses})


def test_pepper_changes_and_the_last_one_is_still_good(identity_servers: IdentityServers) -> None:
    """ID-1: nobody can hash all addresses once and for all."""
    server = identity_servers().start()
    server.bind("alice@example.org", "@alice:example.org")
    old = server.call("GET", "/hash_details")["lookup_pepper"]
    is_known_since = time.monotonic()
    server.terminate()
    server.set(lookup={"pepper_lifetime": 1})
    wait_until("the pepper to be old", lambda: time.monotonic() - is_known_since > 1)
    server.start()
    new = wait_until(
        "another pepper",
        lambda: pepper if (pepper := server.call("GET", "/hash_details")["lookup_pepper"]) != old else None,
    )
    server.bind("bob@example.org", "@bob:example.org")
    for pepper in (old, new):
        wanted = {
            hashed("alice@example.org", pepper): "@alice:example.org",
            hashed("bob@example.org", pepper): "@bob:example.org",
        }
        body = {"addresses": list(wanted), "algorithm": "sha256", "pepper": pepper}
        assert server.call("POST", "/lookup", body) == {"mappings": wanted}


def test_nobody_harvests_addresses(identity_servers: IdentityServers) -> None:
    """ID-1, RATE-1: each address that is looked up counts, in whatever way it is."""
    server = identity_servers(
        {"rate_limits.enabled": True, "rate_limits.classes.lookup": {"per_second": 0.01, "burst": 10}}
    )
    server.start()
    pepper = server.call("GET", "/hash_details")["lookup_pepper"]
    server.call("POST", "/bulk_lookup", {"threepids": [["email", f"a{n}@example.org"] for n in range(5)]})
    hashes = [hashed(f"a{n}@example.org", pepper) for n in range(4)]
    server.call("POST", "/lookup", {"addresses": hashes, "algorithm": "sha256", "pepper": pepper})
    server.call("GET", "/lookup", medium="email", address="a@example.org")
    with refused(429, "M_LIMIT_EXCEEDED"):
        server.call("GET", "/lookup", medium="email", address="b@example.org")
    with refused(429, "M_LIMIT_EXCEEDED"):
        server.call("POST", "/lookup", {"addresses": hashes[:1], "algorithm": "sha256", "pepper": pepper})
    with refused(429, "M_LIMIT_EXCEEDED"):
        server.call("GET", "/user_keys", medium="email", address="b@example.org")


def test_owner_unbinds_and_another_binds(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: unbind, by whoever proves the address; nobody else."""
    email = f"{unique('alice')}@example.org"
    identity.bind(email, "@alice:example.org")
    other_sid, other_secret = identity.validate(f"{unique('mallory')}@example.org")
    body: dict[str, Any] = {"mxid": "@alice:example.org", "threepid": {"medium": "email", "address": email}}
    for proof in ({}, {"sid": other_sid, "client_secret": other_secret}):
        with refused(403, "M_FORBIDDEN"):
            identity.call("POST", "/3pid/unbind", body | proof)
    sid, secret = identity.validate(email)
    with refused(404, "M_NOT_FOUND"):
        identity.call("POST", "/3pid/unbind", body | {"mxid": "@bob:a", "sid": sid, "client_secret": secret})
    identity.call("POST", "/3pid/unbind", body | {"sid": sid, "client_secret": secret})
    assert identity.lookup(email) is None
    identity.bind(email, "@bob:example.org")
    assert identity.lookup(email) == "@bob:example.org"


def test_keys_are_published_and_said_to_be_valid_or_not(identity: IdentityServer) -> None:
    """ID-1: public keys with validity checks."""
    key_id, key = identity.public_key.split()
    assert identity.call("GET", f"/pubkey/{key_id}") == {"public_key": key}
    assert identity.call("GET", "/pubkey/isvalid", public_key=key) == {"valid": True}
    url_safe = key.replace("+", "-").replace("/", "_")
    assert identity.call("GET", "/pubkey/isvalid", public_key=url_safe) == {"valid": True}
    other = encode_verify_key_base64(get_verify_key(generate_signing_key("x")))
    assert identity.call("GET", "/pubkey/isvalid", public_key=other) == {"valid": False}
    assert identity.call("GET", "/pubkey/ephemeral/isvalid", public_key=other) == {"valid": False}
    with refused(404, "M_NOT_FOUND"):
        identity.call("GET", "/pubkey/ed25519:unknown")
    with refused(400, "M_INVALID_PARAM"):
        identity.call("GET", "/pubkey/isvalid")
    with refused(400, "M_INVALID_PARAM"):
        identity.call("GET", "/pubkey/ephemeral/isvalid", public_key="\0")


def test_changed_key_signs_what_was_bound_before(identity_servers: IdentityServers) -> None:
    """ID-1: an old key is still told, is no longer valid, and is not needed any more."""
    server = identity_servers().start()
    server.bind("alice@example.org", "@alice:example.org")
    old_id, old = server.public_key.split()
    server.terminate()
    assert server.command("rotate-key").returncode == 0
    server.start()
    new_id, new = server.public_key.split()
    assert new != old
    assert server.call("GET", f"/pubkey/{old_id}") == {"public_key": old}
    assert server.call("GET", "/pubkey/isvalid", public_key=old) == {"valid": False}
    assert server.call("GET", "/pubkey/isvalid", public_key=new) == {"valid": True}
    found = server.call("GET", "/lookup", medium="email", address="alice@example.org")
    assert list(found["signatures"][server.name]) == [new_id]
    check_signed(server, found)


# The keys of users.


def user_keys(mxid: str) -> tuple[dict[str, Any], Any]:
    """The keys of a user, signed by themselves; and the one that signs."""
    signing = generate_signing_key("device")
    public = encode_verify_key_base64(get_verify_key(signing))
    agreement = encode_verify_key_base64(get_verify_key(generate_signing_key("x")))
    keys = {"mxid": mxid, "keys": {"ed25519:device": public, "curve25519:device": agreement}}
    return sign_json(keys, mxid, signing), signing


def test_owner_of_an_address_publishes_keys_for_its_user(identity: IdentityServer, unique: Unique) -> None:
    """ID-1, E2E-1: users' public keys for PKI, with the address for who knows it, and without for who does not."""
    email, mxid = f"{unique('alice')}@example.org", f"@{unique('alice')}:example.org"
    identity.bind(email, mxid)
    sid, secret = identity.validate(email)
    keys, _ = user_keys(mxid)
    identity.call("POST", "/user_keys", {"sid": sid, "client_secret": secret, "keys": keys})
    [of_address] = identity.call("GET", "/user_keys", medium="email", address=email)["user_keys"]
    assert (of_address["mxid"], of_address["address"], of_address["keys"]) == (mxid, email, keys)
    check_signed(identity, of_address)
    [of_user] = identity.call("GET", "/user_keys", mxid=mxid)["user_keys"]
    assert set(of_user) == {"mxid", "ts", "keys", "signatures"}
    assert of_user["keys"] == keys
    check_signed(identity, of_user)

    # They go with the address.
    identity.bind(email, "@another:example.org")
    assert identity.call("GET", "/user_keys", mxid=mxid) == {"user_keys": []}
    with refused(404, "M_NOT_FOUND"):
        identity.call("GET", "/user_keys", medium="email", address=email)


def test_keys_of_others_and_false_ones_are_refused(identity: IdentityServer, unique: Unique) -> None:
    """ID-1: nobody publishes keys for somebody else, or another's as their own."""
    email, mxid = f"{unique('alice')}@example.org", f"@{unique('alice')}:example.org"
    identity.bind(email, mxid)
    sid, secret = identity.validate(email)

    def publish(keys: object) -> None:
        identity.call("POST", "/user_keys", {"sid": sid, "client_secret": secret, "keys": keys})

    good, signing = user_keys(mxid)
    other, _ = user_keys("@bob:example.org")
    with refused(403, "M_FORBIDDEN"):
        publish(other)
    unsigned = {name: good[name] for name in ("mxid", "keys")}
    stolen = sign_json(unsigned | {"keys": other["keys"]}, mxid, signing)
    for bad in (
        unsigned,
        good | {"more": 1},
        stolen,
        good | {"keys": {}},
        good | {"keys": good["keys"] | {"ed25519:more": good["keys"]["ed25519:device"]}},
        good | {"keys": good["keys"] | {"rsa:1": "x"}},
        good | {"signatures": {mxid: {"ed25519:device": "x"}}},
        good | {"signatures": {mxid: 5}},
        good | {"keys": {f"curve25519:{n}": good["keys"]["curve25519:device"] for n in range(30)}},
    ):
        with refused(400, "M_BAD_JSON"):
            publish(bad)
    assert identity.call("GET", "/user_keys", mxid=mxid) == {"user_keys": []}


# The server.


def test_says_what_it_is_and_knows_no_other_paths(identity: IdentityServer) -> None:
    """ID-1, API-3: the same errors as everywhere."""
    assert identity.call("GET", "") == {"server_name": identity.name}
    with refused(404, "M_UNRECOGNIZED"):
        identity.call("GET", "/unknown")
    with refused(405, "M_UNRECOGNIZED"):
        identity.call("GET", "/3pid/bind")
    answer = identity.request("OPTIONS", "/lookup")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_operator_is_told_what_is_wrong_and_stops_it_in_good_order(identity_servers: IdentityServers) -> None:
    """ID-1: `synapse_like identity`."""
    server = identity_servers().start()
    assert server.command("check-config").stdout == "OK\n"
    second = server.command("run")
    assert second.returncode == 1
    assert "another server is running on the database" in second.stderr
    assert server.terminate() == 0
    assert server.command("migrate").stdout == "The database is up to date.\n"
    server.set(siblings=[{"name": server.name, "url": "nowhere", "public_keys": ["ed25519:1 x"], "nmae": 1}])
    faults = server.command("check-config").stderr
    for fault in (
        "siblings[0].url: must be a URL",
        "siblings[0].public_keys[0]: must be a public key",
        "siblings[0].nmae: is not a setting; did you mean name?",
    ):
        assert fault in faults
