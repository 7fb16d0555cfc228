"""Making checks, none of which keeps the others from being made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from synapse_like.app.doctor.findings import Finding, Report
from synapse_like.logs import get_logger

_log = get_logger(__name__)

Check = Iterable[Finding] | AsyncIterator[Finding]


def make_checks(checks: Callable[[Any], Iterator[tuple[str, Check]]]) -> Report:
    """Make some checks. Runs Twisted's reactor, which cannot be run twice.

    :param checks: gives them, each with its name, for a reactor.
    """
    from twisted.internet import reactor

    loop: Any = reactor
    found: list[Finding] = []

    async def look() -> None:
        for name, check in checks(loop):
            found.extend(await _findings(name, check))

    def begin() -> None:
        Deferred.fromCoroutine(look()).addErrback(_failed).addBoth(lambda _: loop.stop())

    loop.callWhenRunning(begin)
    loop.run()
    return Report(tuple(found))


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
