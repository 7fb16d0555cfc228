"""Checks of what is on this machine: settings, files, the database, whether the server runs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from synapse_like.app.doctor.findings import Finding
from synapse_like.app.errors import StartError
from synapse_like.app.parts import engine_of
from synapse_like.config import Config
from synapse_like.federation.own_keys import KeysUnusable, read_signing_file
from synapse_like.storage import migrations
from synapse_like.storage.database import Connection
from synapse_like.storage.engines import DatabaseUnavailable

#: Free bytes of a disk below which uploads will soon fail, and below which nothing works any more.
LITTLE_SPACE, NO_SPACE = 2 * 1024**3, 128 * 1024**2


def check_settings(config: Config, path: Path) -> Iterator[Finding]:
    """Settings that are allowed, and that few servers should have."""
    strange = list(_strange_settings(config))
    for sentence, advice in strange:
        yield Finding("settings", "warning", sentence, advice)
    if not strange:
        yield Finding("settings", "ok", f"{path} can be used.")
    yield from _secret_file("settings", path)


def _strange_settings(config: Config) -> Iterator[tuple[str, str]]:
    is_public = config.client.public_url is not None or any(
        not ip_address(address).is_loopback for address in config.client.bind
    )
    if is_public and config.registration.mode == "open":
        yield "Anybody can make accounts.", "Set registration.mode to token or closed, unless you want that."
    if is_public and not config.rate_limits.enabled:
        yield "There are no rate limits.", "Set rate_limits.enabled to true."
    if config.client.public_url is not None and not config.client.trusted_proxies:
        yield (
            "There is a public URL and no trusted proxy: all clients seem to have the address of the proxy.",
            "Name the proxy in client.trusted_proxies.",
        )
    if config.federation.enabled and not config.federation.verify_certificates:
        yield (
            "Certificates of other servers are not checked: anybody on the way can pass for them.",
            "Set federation.verify_certificates to true, and name exceptions in federation.unverified_servers.",
        )
    if config.database.url == "sqlite" and config.database.durability == "normal":
        yield "A power cut may take the last moments.", "Set database.durability to full, unless you want that."


def _secret_file(check: str, path: Path) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError as error:
        yield Finding(check, "fault", f"{path} cannot be looked at: {error.strerror}.", "Make it readable.")
        return
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(check, "warning", f"Others on this machine may read {path}.", f"chmod 600 {path}")


def check_key(config: Config) -> Iterator[Finding]:
    """The signing key."""
    path = config.signing_key_file
    try:
        key = read_signing_file(path)[0]
    except KeysUnusable as error:
        yield Finding("signing key", "fault", f"{error}.", "Bring it back from a backup, or run `synapse_like init`.")
        return
    yield Finding("signing key", "ok", f"The server signs by {key.alg}:{key.version}.")
    yield from _secret_file("signing key", path)


def check_folders(config: Config) -> Iterator[Finding]:
    """Rights and free space where the server writes."""
    folders = [("data directory", config.data_dir)]
    if config.content.directory is not None or config.content_directory.exists():
        folders.append(("content", config.content_directory))
    for check, folder in folders:
        yield from _folder(check, folder)


def _folder(check: str, folder: Path) -> Iterator[Finding]:
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
        yield Finding(check, "fault", sentence, "Make room: `synapse_like media purge`, `purge-history`.")
    elif free < LITTLE_SPACE:
        yield Finding(check, "warning", sentence, "Make room soon.")
    else:
        yield Finding(check, "ok", sentence)


def check_database(config: Config) -> Iterator[Finding]:
    """Whether it can be reached, its schema, and its files as far as that is quick."""
    try:
        engine = engine_of(config)
        if engine.path is not None and not engine.path.exists():
            yield Finding("database", "warning", f"{engine.path} is not there.", "The first start will make it.")
            return
        connection = Connection(engine)
    except (StartError, DatabaseUnavailable) as error:
        yield Finding("database", "fault", f"It cannot be used: {error}.", "See to it that it runs, and to its URL.")
        return
    try:
        yield from _schema(connection)
        faults = engine.faults(connection.raw)
    except engine.database_errors as error:
        yield Finding("database", "fault", f"It fails: {str(error).strip()}.", "Look into its log.")
        return
    finally:
        connection.close()
    for fault in faults:
        yield Finding("database", "fault", fault, "Stop the server, and restore a backup or repair the database.")
    if not faults:
        yield Finding("database", "ok", f"{engine.name} finds no fault with itself.")


def _schema(connection: Connection) -> Iterator[Finding]:
    known = migrations.steps()[-1].number
    applied = migrations.newest_applied(connection)
    if applied > known:
        sentence = f"It is at schema {applied}, made by a newer version; this one knows {known}."
        yield Finding("database", "fault", sentence, "Install the newer version.")
    elif applied < known:
        sentence = f"It is at schema {applied}, older than {known}."
        yield Finding("database", "warning", sentence, "The next start brings it up to date; make a backup before.")
    else:
        yield Finding("database", "ok", f"It is reached, and at schema {applied}.")
