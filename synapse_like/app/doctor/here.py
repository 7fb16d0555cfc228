"""Checks of what a home server has on this machine."""

from __future__ import annotations

from collections.abc import Iterator

from synapse_like.app.doctor.findings import Finding
from synapse_like.app.doctor.shared import check_folder, is_public
from synapse_like.app.errors import StartError
from synapse_like.app.parts import engine_of
from synapse_like.config import Config
from synapse_like.storage import content
from synapse_like.storage.connections import Connection
from synapse_like.storage.content_files import ContentFolder
from synapse_like.storage.engines.engine import DatabaseUnavailable


def strange_settings(config: Config) -> Iterator[tuple[str, str]]:
    """Settings that are allowed, and that few servers should have; what to do about them."""
    if is_public(config.client) and config.registration.mode == "open":
        yield "Anybody can make accounts.", "Set registration.mode to token or closed, unless you want that."
    if is_public(config.client) and not config.rate_limits.enabled:
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


def check_folders(config: Config) -> Iterator[Finding]:
    """Rights and free space where the server writes."""
    folders = [("data directory", config.data_dir)]
    if config.content.directory is not None or config.content_directory.exists():
        folders.append(("content", config.content_directory))
    for check, folder in folders:
        yield from check_folder(check, folder, "Make room: `synapse_like media purge`, `purge-history`.")


def check_files(config: Config) -> Iterator[Finding]:
    """Whether a machine that shares a database with others shares its files, too; some of them are looked at."""
    try:
        connection = Connection(engine_of(config))
    except (StartError, DatabaseUnavailable):
        return  # told where the database is looked at
    folder = ContentFolder(config.content_directory)
    try:
        for digit in "0123456789abcdef":
            named = connection.transact(content.sizes_by_hash, digit)
            if named:
                there = {sha256 for letter in "0123456789abcdef" for sha256 in folder.sizes(digit + letter)}
                break
        else:
            yield Finding("files", "ok", "There are none yet. All machines must have the same folder for them.")
            return
    except connection.engine.database_errors as error:
        yield Finding("files", "skipped", f"The database does not tell what there should be: {str(error).strip()}.")
        return
    finally:
        connection.close()
    missing = len(named.keys() - there)
    if missing:
        found = f"Of {len(named)} files that were looked for, {missing} are not in {config.content_directory}."
        advice = "Let content.directory be one folder for all machines, on a file system that they share."
        yield Finding("files", "fault", found, advice)
    else:
        yield Finding("files", "ok", f"All of the {len(named)} that were looked for are there.")
