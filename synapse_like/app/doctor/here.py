"""Checks of what a home server has on this machine."""

from __future__ import annotations

from collections.abc import Iterator

from synapse_like.app.doctor.findings import Finding
from synapse_like.app.doctor.shared import check_folder, is_public
from synapse_like.config import Config


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
    if config.database.url == "sqlite" and config.database.durability == "normal":
        yield "A power cut may take the last moments.", "Set database.durability to full, unless you want that."


def check_folders(config: Config) -> Iterator[Finding]:
    """Rights and free space where the server writes."""
    folders = [("data directory", config.data_dir)]
    if config.content.directory is not None or config.content_directory.exists():
        folders.append(("content", config.content_directory))
    for check, folder in folders:
        yield from check_folder(check, folder, "Make room: `synapse_like media purge`, `purge-history`.")
