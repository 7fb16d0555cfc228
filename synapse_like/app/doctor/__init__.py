"""Whether everything that a home server needs is as it should be (`synapse_like doctor`).

Each check gives findings, and none keeps the others from being made: what a check does not think of is its own fault,
in both senses. Nothing is changed; the database is only read, and no letter is sent unless it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from synapse_like.app.doctor import here
from synapse_like.app.doctor.findings import Finding, Report
from synapse_like.app.doctor.there import Elsewhere
from synapse_like.config import Config
from synapse_like.federation.own_keys import KeysUnusable, read_signing_file
from synapse_like.logs import get_logger

_log = get_logger(__name__)

Check = Iterable[Finding] | AsyncIterator[Finding]


def diagnose(config: Config, path: Path, *, ask: Sequence[str] = (), mail_to: str | None = None) -> Report:
    """Make all checks. Runs Twisted's reactor, which cannot be run twice.

    :param path: of the settings.
    :param ask: names of servers that are asked for the time, and to come and see; those of
        `federation.trusted_key_servers` if there are none.
    :param mail_to: who is sent a letter; None to send none.
    """
    from twisted.internet import reactor

    loop: Any = reactor
    found: list[Finding] = []

    async def look() -> None:
        others = list(ask or config.federation.trusted_key_servers)
        for name, check in _checks(config, path, others, mail_to, loop):
            found.extend(await _findings(name, check))

    def begin() -> None:
        Deferred.fromCoroutine(look()).addErrback(_failed).addBoth(lambda _: loop.stop())

    loop.callWhenRunning(begin)
    loop.run()
    return Report(tuple(found))


def _checks(
    config: Config, path: Path, others: list[str], mail_to: str | None, reactor: Any
) -> Iterator[tuple[str, Check]]:
    yield "settings", here.check_settings(config, path)
    yield "signing key", here.check_key(config)
    yield "data directory", here.check_folders(config)
    yield "database", here.check_database(config)
    try:
        key = read_signing_file(config.signing_key_file)[0]
    except KeysUnusable:
        return  # told above; without it there is nobody to ask for
    elsewhere = Elsewhere(config, reactor, key)
    yield "server", elsewhere.running()
    if config.federation.enabled:
        yield "clock", elsewhere.time(others)
        yield "DNS", elsewhere.names()
        yield "certificate", elsewhere.certificate()
        yield "federation", elsewhere.as_others_see_us()
        yield "from outside", elsewhere.as_told_by(others)
    yield "calls", elsewhere.calls()
    yield "mail", elsewhere.mail(mail_to)
    yield "identity", elsewhere.identity_servers()


async def _findings(name: str, check: Check) -> list[Finding]:
    """What a check finds; that it fails, if it does."""
    found = []
    try:
        if isinstance(check, AsyncIterator):
            async for finding in check:
                found.append(finding)
        else:
            found.extend(check)
    except Exception as error:
        _log.exception("a check failed", check=name)
        sentence = f"It could not be checked: {type(error).__name__}: {error}."
        found.append(Finding(name, "fault", sentence, "That is a fault of the program; the log above says where."))
    return found


def _failed(failure: Failure) -> None:
    _log.error("the checks broke off", reason=failure.getErrorMessage())
