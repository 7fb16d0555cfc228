"""What the commands do to a database, whether the server runs at the moment or not."""

from __future__ import annotations

from collections.abc import Sequence

from signedjson.key import encode_verify_key_base64, get_verify_key

from synapse_like.app import identity
from synapse_like.app.errors import StartError
from synapse_like.app.parts import connect, engine_of, hasher
from synapse_like.config import Config
from synapse_like.federation import status as sending_status
from synapse_like.federation.own_keys import KeysUnusable, read_signing_file
from synapse_like.handlers import state_explanation
from synapse_like.handlers.accounts import RESET
from synapse_like.handlers.passwords import check_strength
from synapse_like.identity.settings import IdentityConfig
from synapse_like.protocol.errors import NotFound, UserInUse
from synapse_like.protocol.events import StateSlot
from synapse_like.protocol.identifiers import local_part_for_registration
from synapse_like.storage import accounts, destinations, mail_links
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine
from synapse_like.storage.identity import destinations as identity_destinations
from synapse_like.storage.identity import invites, statements
from synapse_like.storage.identity.destinations import HOME, SIBLING
from synapse_like.storage.migrations import HOME_SERVER, IDENTITY_SERVER
from synapse_like.storage.migrations import migrate as migrate_tables
from synapse_like.storage.transactions import Transaction


def migrate(config: Config) -> str:
    """Bring the tables up to date; a sentence about what was done.

    :raises StartError: a server is running on the database, or it cannot be opened.
    """
    return _migrate(engine_of(config), HOME_SERVER)


def _migrate(engine: Engine, package: str) -> str:
    try:
        connection = Connection(engine, exclusive=True)
        try:
            steps = migrate_tables(connection, package)
        finally:
            connection.close()
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    if not steps:
        return "The database is up to date."
    return "Applied " + ", ".join(f"{step.number:04} {step.name}" for step in steps) + "."


def register_user(config: Config, user: str, password: str, admin: bool) -> str:
    """Make an account; its user ID.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: the name is taken or not allowed, or the password is too short.
    """
    check_strength(password)
    user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
    password_hash = hasher(config).hash(password)
    connection = connect(config)
    try:
        made = connection.transact(
            accounts.create, user_id, password_hash=password_hash, is_admin=admin, now_ms=_now_ms()
        )
    finally:
        connection.close()
    if not made:
        raise UserInUse(f"The user ID {user_id} is taken.")
    return user_id


def reset_password(config: Config, user: str, password: str) -> None:
    """Give a user another password and log them out everywhere.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such user, or the password is too short.
    """
    check_strength(password)
    user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
    password_hash = hasher(config).hash(password)
    connection = connect(config)
    try:
        if not connection.transact(_replace_password, user_id, password_hash):
            raise _no_user(user_id)
    finally:
        connection.close()


def _replace_password(txn: Transaction, user_id: str, password_hash: str) -> bool:
    mail_links.delete_of_user(txn, user_id, RESET)
    return accounts.replace_password(txn, user_id, password_hash)


def set_admin(config: Config, user: str, is_admin: bool) -> str:
    """Make a user an administrator, or an administrator a user; their user ID.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such user.
    """
    user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
    connection = connect(config)
    try:
        if not connection.transact(accounts.set_admin, user_id, is_admin=is_admin):
            raise _no_user(user_id)
    finally:
        connection.close()
    return user_id


def deactivate_user(config: Config, user: str) -> str:
    """Close an account for good; its user ID.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such user, or the account is closed already.
    """
    user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
    connection = connect(config)
    try:
        if not connection.transact(accounts.deactivate, user_id, now_ms=_now_ms()):
            raise _no_user(user_id)
    finally:
        connection.close()
    return user_id


def _no_user(user_id: str) -> NotFound:
    return NotFound(f"There is no user {user_id} with an open account.")


def explain_state(config: Config, room_id: str, slot: StateSlot | None) -> str:
    """Why the state of a room is what it is, in lines.

    :param slot: the one piece of state that is asked for; None for all of it.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such room or state.
    """
    connection = connect(config)
    try:
        return "\n".join(connection.transact(state_explanation.explain, room_id, slot))
    finally:
        connection.close()


def federation_status(config: Config) -> str:
    """How it stands with the servers that we send to, in lines.

    :raises StartError: the database cannot be opened.
    """
    connection = connect(config)
    try:
        txn = connection.begin(writable=False)
        try:
            return "\n".join(sending_status.table(txn, _now_ms()))
        finally:
            connection.roll_back(txn)
    finally:
        connection.close()


def federation_retry(config: Config, server: str | None) -> str:
    """Have a server tried again at once; a sentence about what was done.

    :param server: None for all that cannot be reached.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: nothing was ever sent to this server.
    """
    connection = connect(config)
    try:
        count = connection.transact(destinations.ask_retry, server)
    finally:
        connection.close()
    if server is None:
        return f"Servers to be tried again at once: {count}."
    if not count:
        raise NotFound(f"Nothing was ever sent to {server}.")
    return f"{server} is to be tried again at once."


# An identity server.


def identity_migrate(config: IdentityConfig) -> str:
    """Bring the tables of an identity server up to date; a sentence about what was done.

    :raises StartError: a server is running on the database, or it cannot be opened.
    """
    return _migrate(identity.engine_of(config), IDENTITY_SERVER)


def identity_key(config: IdentityConfig) -> str:
    """The public key of an identity server, as its siblings have it in their settings.

    :raises StartError: there is none.
    """
    try:
        key = read_signing_file(config.signing_key_file)[0]
    except KeysUnusable as error:
        raise StartError(str(error)) from error
    return f"{key.alg}:{key.version} {encode_verify_key_base64(get_verify_key(key))}"


def identity_status(config: IdentityConfig) -> str:
    """How it stands with the siblings of an identity server, and what home servers are to be told, in lines.

    :raises StartError: the database cannot be opened.
    """
    try:
        connection = Connection(identity.engine_of(config))
    except DatabaseUnavailable as error:
        raise StartError(str(error)) from error
    try:
        migrate_tables(connection, IDENTITY_SERVER)
        return "\n".join(connection.transact(_identity_status, [sibling.name for sibling in config.siblings]))
    except DatabaseUnavailable as error:
        raise StartError(str(error)) from error
    finally:
        connection.close()


def _identity_status(txn: Transaction, siblings: Sequence[str]) -> list[str]:
    rows: list[tuple[str, ...]] = [("server", "waiting", "failing since", "next try", "last error")]
    for kind, server in [(SIBLING, name) for name in siblings] + [
        (HOME, name) for name in invites.servers_to_tell(txn)
    ]:
        known = identity_destinations.find(txn, kind, server)
        is_sibling = kind == SIBLING
        count = statements.count_own_after(txn, known.sent_up_to) if is_sibling else invites.count_notices(txn, server)
        rows.append(
            (
                f"{server} ({'sibling' if is_sibling else 'home server'})",
                str(count),
                sending_status.moment(known.failing_since),
                sending_status.moment(known.retry_at),
                " ".join((known.last_error or "-").split()),
            )
        )
    if len(rows) == 1:
        return ["There are no siblings, and no home server is to be told anything."]
    return sending_status.aligned(rows)


def _now_ms() -> int:
    import time

    return int(time.time() * 1000)
