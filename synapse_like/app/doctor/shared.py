"""Checks that home servers and identity servers have in common."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from synapse_like import __version__
from synapse_like.app.doctor.findings import Finding, State
from synapse_like.app.errors import StartError
from synapse_like.app.parts import mail_of
from synapse_like.clock import ReactorClock
from synapse_like.config import MailHandOver
from synapse_like.config.shared import Listener, url_of
from synapse_like.federation.agent import Agent
from synapse_like.federation.client import KEYS, MOST_KEY_BYTES
from synapse_like.federation.own_keys import KeysUnusable, read_signing_file
from synapse_like.federation.web_client import WebClient
from synapse_like.protocol.errors import MatrixError
from synapse_like.storage import migrations
from synapse_like.storage.connections import Connection
from synapse_like.storage.engines.engine import DatabaseUnavailable, Engine

USER_AGENT = f"synapse_like/{__version__}"
#: Free bytes of a disk below which things will soon fail, and below which nothing works any more.
LITTLE_SPACE, NO_SPACE = 2 * 1024**3, 128 * 1024**2
#: Seconds by which clocks may differ.
MOST_SECONDS_OFF, FAR_OFF = 5, 60


def reason(error: Exception) -> str:
    """Why, without the full stop."""
    text = (error.reason or error.message) if isinstance(error, MatrixError) else str(error)
    return text.strip().rstrip(".") or type(error).__name__


# Settings and files.


def check_settings(path: Path, strange: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """The file of the settings.

    :param strange: what is allowed, and few servers should have; each with what to do about it.
    """
    warnings = [Finding("settings", "warning", sentence, advice) for sentence, advice in strange]
    yield from warnings or [Finding("settings", "ok", f"{path} can be used.")]
    yield from _secret_file("settings", path)


def is_public(listener: Listener) -> bool:
    """Whether others than this machine come in."""
    return listener.public_url is not None or any(not ip_address(address).is_loopback for address in listener.bind)


def _secret_file(check: str, path: Path) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError as error:
        yield Finding(check, "fault", f"{path} cannot be looked at: {error.strerror}.", "Make it readable.")
        return
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(check, "warning", f"Others on this machine may read {path}.", f"chmod 600 {path}")


def check_key(path: Path, command: str) -> Iterator[Finding]:
    """The signing key.

    :param command: what makes a new one.
    """
    try:
        key = read_signing_file(path)[0]
    except KeysUnusable as error:
        yield Finding("signing key", "fault", f"{error}.", f"Bring it back from a backup, or run `{command}`.")
        return
    yield Finding("signing key", "ok", f"The server signs by {key.alg}:{key.version}.")
    yield from _secret_file("signing key", path)


def check_folder(check: str, folder: Path, way_out: str) -> Iterator[Finding]:
    """Rights and free space where the server writes.

    :param way_out: what to do when there is no space left.
    """
    if not folder.is_dir():
        yield Finding(check, "fault", f"{folder} is not there.", "Make it, for the user that runs the server.")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(check, "fault", f"{folder} cannot be written.", "Run this as the server's user, or chown it.")
        return
    status = folder.stat()
    if status.st_uid != os.geteuid():
        advice = "Run this as the user that runs the server."
        yield Finding(check, "warning", f"{folder} belongs to another user.", advice)
    if status.st_mode & stat.S_IRWXO:
        yield Finding(check, "warning", f"Others on this machine may look into {folder}.", f"chmod o= {folder}")
    free = shutil.disk_usage(folder).free
    sentence = f"There are {free / 1024**3:.1f} GiB free in {folder}."
    if free < NO_SPACE:
        yield Finding(check, "fault", sentence, way_out)
    elif free < LITTLE_SPACE:
        yield Finding(check, "warning", sentence, "Make room soon.")
    else:
        yield Finding(check, "ok", sentence)


# The database.


def check_database(make_engine: Callable[[], Engine], package: str) -> Iterator[Finding]:
    """Whether it can be reached, its schema, and its files as far as that is quick.

    :param package: whose schema it must have.
    """
    try:
        engine = make_engine()
        if engine.path is not None and not engine.path.exists():
            yield Finding("database", "warning", f"{engine.path} is not there.", "The first start will make it.")
            return
        connection = Connection(engine)
    except (StartError, DatabaseUnavailable) as error:
        yield Finding("database", "fault", f"It cannot be used: {error}.", "See to it that it runs, and to its URL.")
        return
    try:
        yield from _schema(connection, package)
        faults, risks = engine.faults(connection.raw), engine.risks(connection.raw)
    except engine.database_errors as error:
        yield Finding("database", "fault", f"It fails: {str(error).strip()}.", "Look into its log.")
        return
    finally:
        connection.close()
    for fault in faults:
        yield Finding("database", "fault", fault, "Stop the server, and restore a backup or repair the database.")
    if not faults:
        yield Finding("database", "ok", f"{engine.name} finds no fault with itself.")
    for risk in risks:
        yield Finding("durability", "warning", risk, "Change that, unless you want it so.")
    if not risks:
        yield Finding("durability", "ok", "What is acknowledged is on the disk.")


def _schema(connection: Connection, package: str) -> Iterator[Finding]:
    known = migrations.steps(package)[-1].number
    applied = migrations.newest_applied(connection)
    if migrations.is_of_another_kind(connection, package):
        sentence = "It is the database of another kind of server."
        yield Finding("database", "fault", sentence, "See to database.url: each server needs a database of its own.")
    elif applied > known:
        sentence = f"It is at schema {applied}, made by a newer version; this one knows {known}."
        yield Finding("database", "fault", sentence, "Install the newer version.")
    elif applied < known:
        sentence = f"It is at schema {applied}, older than {known}."
        yield Finding("database", "warning", sentence, "The next start brings it up to date; make a backup before.")
    else:
        yield Finding("database", "ok", f"It is reached, and at schema {applied}.")


# Is it there?


async def check_running(listener: Listener, reactor: Any) -> AsyncIterator[Finding]:
    """Whether the server runs, and says that it is well."""
    address = ip_address(listener.bind[0])
    host = str(address) if not address.is_unspecified else "::1" if address.version == 6 else "127.0.0.1"
    url = f"{url_of(host, listener.port)}/health"
    web = WebClient(reactor, ca_file=None, timeout=10, user_agent=USER_AGENT)
    try:
        answer = await web.request("GET", url)
    except MatrixError as error:
        yield Finding("server", "warning", f"It does not answer at {url}: {reason(error)}.", "Start it.")
        return
    if answer.status == 200:
        yield Finding("server", "ok", "It runs, and says that it is well.")
    else:
        yield Finding("server", "fault", f"It runs, and is not well: status {answer.status}.", "Look into its log.")


# Time.


async def check_clock(others: Sequence[str], make_agent: Callable[[], Agent]) -> AsyncIterator[Finding]:
    """Our clock against those of home servers.

    :param others: their names.
    :param make_agent: what asks one of them, whose certificate need not be good.
    """
    if not others:
        yield Finding("clock", "skipped", "It was compared with nobody's.", "Name a server by --ask.")
    for name in others:
        agent = make_agent()
        before = datetime.now(UTC)
        try:
            async with agent.download(name, f"{KEYS}/server", most_bytes=MOST_KEY_BYTES) as answer:
                said = answer.header("Date")
            theirs = parsedate_to_datetime(said or "")
        except (MatrixError, ValueError) as error:
            yield Finding("clock", "warning", f"{name} does not tell the time: {reason(error)}.", "Ask another.")
            continue
        finally:
            await agent.close()
        yield compare_clocks(name, theirs, before, datetime.now(UTC))


def compare_clocks(name: str, theirs: datetime, before: datetime, now: datetime) -> Finding:
    """What comes of it that somebody told the time between two moments."""
    off = max(before - theirs - timedelta(seconds=1), theirs - now, timedelta()).total_seconds()
    if off <= MOST_SECONDS_OFF:
        return Finding("clock", "ok", f"It agrees with that of {name}.")
    state: State = "fault" if off > FAR_OFF else "warning"
    advice = "Have the clock set by NTP; or theirs is wrong."
    return Finding("clock", state, f"It differs from that of {name} by {off:.0f} seconds.", advice)


# Mail.


async def check_mail(
    settings: MailHandOver, server_name: str, reactor: Any, clock: ReactorClock, recipient: str | None
) -> AsyncIterator[Finding]:
    """Whether the mail server takes mail of ours.

    :param recipient: who is sent a letter; None to send none.
    """
    if settings.host is None:
        yield Finding("mail", "skipped", "There is no mail server in the settings.")
        return
    place = f"{settings.host} port {settings.usual_port}"
    try:
        letters, mailer = mail_of(settings, server_name, reactor, clock)
        offer = await mailer.offer(recipient or letters.sender)
        if recipient is None:
            offer.withdraw()
            yield Finding("mail", "ok", f"{place} would take a letter of ours.")
            return
        await offer.deliver(letters.write("doctor", recipient))
    except (MatrixError, StartError) as error:
        yield Finding("mail", "fault", f"{place}: {reason(error)}.", "See to the settings under mail.")
    else:
        yield Finding("mail", "ok", f"{place} has taken a letter to {recipient}.", "See whether it arrives.")
