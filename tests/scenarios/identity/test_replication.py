"""Three identity servers that share all they know, with one of them killed and brought back (ID-1)."""

from __future__ import annotations

import sqlite3

import pytest

from tests.scenarios.identity.conftest import IdentityServers
from tests.scenarios.identity.test_associations import check_signed, hashed, user_keys
from tests.support.identity import IdentityServer
from tests.support.processes import wait_until

Three = tuple[IdentityServer, IdentityServer, IdentityServer]


@pytest.fixture
def three(identity_servers: IdentityServers) -> Three:
    """Three siblings, running."""
    servers = identity_servers(), identity_servers(), identity_servers()
    for server in servers:
        server.know([other for other in servers if other is not server])
    for server in servers:
        server.start()
    return servers


def wait_for(email: str, mxid: str | None, *servers: IdentityServer, seconds: float = 30) -> None:
    """Wait until servers say whose an address is."""
    for server in servers:
        wait_until(f"{email} at {server.name}", lambda server=server: server.lookup(email) == mxid, seconds=seconds)


def test_what_one_knows_all_know(three: Three) -> None:
    """ID-1: associations, keys and unbinding reach the siblings, signed by whoever said it and by who tells it."""
    a, b, c = three
    a.bind("alice@example.org", "@alice:example.org")
    wait_for("alice@example.org", "@alice:example.org", b, c)
    found = c.call("GET", "/lookup", medium="email", address="alice@example.org")
    assert set(found["signatures"]) == {a.name, c.name}
    check_signed(a, found)
    check_signed(c, found)
    pepper = b.call("GET", "/hash_details")["lookup_pepper"]
    body = {"addresses": [hashed("alice@example.org", pepper)], "algorithm": "sha256", "pepper": pepper}
    assert list(b.call("POST", "/lookup", body)["mappings"].values()) == ["@alice:example.org"]

    sid, secret = b.validate("alice@example.org")
    keys, _ = user_keys("@alice:example.org")
    b.call("POST", "/user_keys", {"sid": sid, "client_secret": secret, "keys": keys})
    for server in (a, c):
        wait_until("the keys", lambda server=server: _keys(server, "@alice:example.org") or None)

    # The newest word counts, whoever has it: here another server takes the address away.
    threepid = {"medium": "email", "address": "alice@example.org"}
    b.call(
        "POST",
        "/3pid/unbind",
        {"mxid": "@alice:example.org", "threepid": threepid, "sid": sid, "client_secret": secret},
    )
    wait_for("alice@example.org", None, a, b, c)
    c.bind("alice@example.org", "@bob:example.org")
    wait_for("alice@example.org", "@bob:example.org", a, b, c)


def test_killed_sibling_learns_what_it_missed(three: Three) -> None:
    """ID-1: replication survives an outage, on both sides of it."""
    a, b, c = three
    c.bind("before@example.org", "@before:example.org")
    wait_for("before@example.org", "@before:example.org", a, b)
    c.kill9()
    for number in range(5):
        a.bind(f"a{number}@example.org", f"@a{number}:example.org")
    b.bind("b@example.org", "@b:example.org")
    # An address that changes hands meanwhile ends with whoever has it now.
    a.bind("before@example.org", "@after:example.org")
    wait_for("b@example.org", "@b:example.org", a)
    wait_until("a to see that c is gone", lambda: f"{c.name} (sibling)" in a.command("status").stdout)
    # The one that has to tell is killed, too, before it can.
    a.kill9()
    a.start()
    c.start()
    for number in range(5):
        wait_for(f"a{number}@example.org", f"@a{number}:example.org", c, b)
    wait_for("b@example.org", "@b:example.org", c)
    wait_for("before@example.org", "@after:example.org", a, b, c)
    wait_until("nothing to wait", lambda: _waiting(a) == ["0", "0"])


def _keys(server: IdentityServer, mxid: str) -> list[object]:
    return list(server.call("GET", "/user_keys", mxid=mxid)["user_keys"])


def _waiting(server: IdentityServer) -> list[str]:
    """How many statements wait for each sibling."""
    lines = server.command("status").stdout.splitlines()[1:]
    return [line.split(")")[1].split()[0] for line in lines]


def test_server_with_a_new_database_is_told_everything_and_heard_anew(three: Three) -> None:
    """ID-1: a sibling that has lost everything gets it back from the others, but for what only it knew."""
    a, b, c = three
    if c.database != "sqlite":
        pytest.skip("to lose a database is to lose a file; that is tried with SQLite")
    a.bind("alice@example.org", "@alice:example.org")
    c.bind("carol@example.org", "@carol:example.org")
    wait_for("alice@example.org", "@alice:example.org", c)
    wait_for("carol@example.org", "@carol:example.org", a, b)
    c.kill9()
    for file in c.data_dir.glob("identity.db*"):
        file.unlink()
    c.start()
    wait_for("alice@example.org", "@alice:example.org", c)
    c.bind("carol2@example.org", "@carol:example.org")
    wait_for("carol2@example.org", "@carol:example.org", a, b)


def test_server_brought_back_from_a_backup_is_heard_again(three: Three) -> None:
    """ID-1: positions that a sibling has passed already are not used a second time without its noticing."""
    a, b, c = three
    if a.database != "sqlite":
        pytest.skip("a backup is a copy of a file; that is tried with SQLite")
    a.bind("one@example.org", "@one:example.org")
    wait_for("one@example.org", "@one:example.org", b, c)
    backup = a.data_dir / "backup.db"
    source, copy = sqlite3.connect(a.data_dir / "identity.db"), sqlite3.connect(backup)
    source.backup(copy)
    source.close()
    copy.close()
    for number in range(3):
        a.bind(f"lost{number}@example.org", "@lost:example.org")
    wait_for("lost2@example.org", "@lost:example.org", b, c)
    a.kill9()
    for file in a.data_dir.glob("identity.db*"):
        file.unlink()
    backup.rename(a.data_dir / "identity.db")
    a.start()
    a.bind("two@example.org", "@two:example.org")
    wait_for("two@example.org", "@two:example.org", b, c)


def test_invite_that_waits_here_is_settled_by_a_sibling(three: Three) -> None:
    """ID-1: the address may be bound at another server than the one where the invite was left."""
    a, b, _ = three
    body = {
        "medium": "email",
        "address": "dora@example.org",
        "room_id": "!r:nowhere.invalid",
        "sender": "@s:nowhere.invalid",
    }
    kept = a.call("POST", "/store-invite", body)
    assert "@s:nowhere.invalid has invited you" in a.mail_to("dora@example.org")
    assert a.call("GET", "/pubkey/ephemeral/isvalid", public_key=kept["public_keys"][1]["public_key"]) == {
        "valid": True
    }
    b.bind("dora@example.org", "@dora:nowhere.invalid")
    wait_for("dora@example.org", "@dora:nowhere.invalid", a)
    # Whom it is to tell cannot be reached, which an operator can see.
    wait_until("a notice", lambda: "nowhere.invalid (home server)" in a.command("status").stdout)
    with_user = a.request("POST", "/store-invite", body)
    assert (with_user.status, with_user.json["errcode"]) == (400, "M_THREEPID_IN_USE")
    assert with_user.json["mxid"] == "@dora:nowhere.invalid"
