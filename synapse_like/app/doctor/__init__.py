"""Whether everything that a server needs is as it should be (`synapse_like doctor`, `synapse_like identity doctor`).

Each check gives findings, and none keeps the others from being made: what a check does not think of is its own fault,
in both senses. Nothing is changed; the database is only read, and no letter is sent unless it is asked for.

The checks of a home server are in `here.py` and `there.py`, those of an identity server in `identity.py`, and what both
have in common in `shared.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from synapse_like.app.doctor import here, shared
from synapse_like.app.doctor.checking import Check, make_checks
from synapse_like.app.doctor.findings import Report
from synapse_like.app.doctor.there import Elsewhere
from synapse_like.app.parts import engine_of
from synapse_like.config import Config
from synapse_like.federation.own_keys import KeysUnusable, read_signing_file
from synapse_like.storage.migrations import HOME_SERVER


def diagnose(config: Config, path: Path, *, ask: Sequence[str] = (), mail_to: str | None = None) -> Report:
    """Make all checks of a home server. Runs Twisted's reactor, which cannot be run twice.

    :param path: of the settings.
    :param ask: names of servers that are asked for the time, and to come and see; those of
        `federation.trusted_key_servers` if there are none.
    :param mail_to: who is sent a letter; None to send none.
    """
    others = list(ask or config.federation.trusted_key_servers)
    return make_checks(lambda reactor: _checks(config, path, others, mail_to, reactor))


def _checks(
    config: Config, path: Path, others: list[str], mail_to: str | None, reactor: Any
) -> Iterator[tuple[str, Check]]:
    yield "settings", shared.check_settings(path, here.strange_settings(config))
    yield "signing key", shared.check_key(config.signing_key_file, "synapse_like init")
    yield "data directory", here.check_folders(config)
    yield "database", shared.check_database(lambda: engine_of(config), HOME_SERVER)
    if config.database.shared:
        yield "files", here.check_files(config)
    try:
        key = read_signing_file(config.signing_key_file)[0]
    except KeysUnusable:
        return  # told above; without it there is nobody to ask for
    elsewhere = Elsewhere(config, reactor, key)
    yield "server", shared.check_running(config.client, reactor)
    if config.federation.enabled:
        yield "clock", elsewhere.time(others)
        yield "DNS", elsewhere.names()
        yield "certificate", elsewhere.certificate()
        yield "federation", elsewhere.as_others_see_us()
        yield "from outside", elsewhere.as_told_by(others)
    yield "calls", elsewhere.calls()
    yield "mail", elsewhere.mail(mail_to)
    yield "identity", elsewhere.identity_servers()
