"""Settings that a running server takes over from its file when it is sent SIGHUP.

Each part that can take another value is told here how. What else has changed in the file is named in the log: it counts
from the next start on. A file with faults changes nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from synapse_like import logs
from synapse_like.background import run_in_background
from synapse_like.config import Config, ConfigError
from synapse_like.config.values import Settings
from synapse_like.federation.keyring import Keyring
from synapse_like.federation.tls import ClientTls, ServerTls
from synapse_like.http.proxies import TrustedProxies
from synapse_like.http.site import Site

Kind = TypeVar("Kind", bound=Settings)
#: How each setting is taken over, by its name or that of its section.
Takes = Mapping[str, Callable[[Kind], object]]

_log = logs.get_logger(__name__)


class Reloading(Generic[Kind]):
    """Takes over what can be.

    :param settings: those that count now.
    :param read: reads the file again. Raises ConfigError.
    """

    def __init__(self, settings: Kind, read: Callable[[], Kind], takes: Takes[Kind]) -> None:
        self._settings = settings
        self._read = read
        self._takes = takes
        #: What has changed in the file since the start, and counts only from the next start on.
        self.waiting: set[str] = set()

    def reload(self) -> None:
        """Read the file again."""
        try:
            new = self._read()
        except ConfigError as error:
            _log.error("the settings cannot be used and stay as they were", faults=list(error.faults))
            return
        self.take(new)

    def take(self, new: Kind) -> None:
        """Take over what can be of some settings that were read."""
        changed = set(_differing(self._settings, new))
        taken = {name for name in changed if self._name_of(name) is not None}
        for name in sorted({found for change in taken if (found := self._name_of(change)) is not None}):
            self._takes[name](new)
        self._settings = new
        # What was changed back and forth is named, too: who runs the server has seen it before.
        self.waiting |= changed - taken
        _log.info("the settings were read again", taken_over=sorted(taken))
        if self.waiting:
            _log.warning("some settings count only after a restart", settings=sorted(self.waiting))

    def _name_of(self, change: str) -> str | None:
        """Under what name a change is taken over: its own, or that of a section it is in; None if it is not."""
        parts = change.split(".")
        names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        return next((name for name in names if name in self._takes), None)


def _differing(old: Settings, new: Settings, prefix: str = "") -> Iterator[str]:
    """The names of the settings that differ."""
    for key in old.__struct_fields__:
        before, after = getattr(old, key), getattr(new, key)
        if isinstance(before, Settings) and isinstance(after, Settings):
            yield from _differing(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}"


def take_log(settings: Any) -> None:
    """Write the log in another way."""
    logs.configure(settings.log.format, settings.log.level)


def takes_of_home_server(
    rates: dict[str, tuple[float, int]],
    sites: list[Site[Any]],
    keyring: Keyring,
    client_tls: ClientTls,
) -> Takes[Config]:
    """How a home server takes its settings over.

    :param rates: where the limits look for their rates.
    """

    def take_rates(config: Config) -> None:
        rates.update(rates_of(config))

    def take_proxies(config: Config) -> None:
        for site in sites:
            site.trusted_proxies = TrustedProxies(config.client.trusted_proxies)

    return {
        "log": take_log,
        "rate_limits.classes": take_rates,
        "client.trusted_proxies": take_proxies,
        "federation.trusted_key_servers": lambda config: keyring.trust(config.federation.trusted_key_servers),
        "federation.unverified_servers": lambda config: client_tls.leave_unverified(
            config.federation.unverified_servers
        ),
    }


def rates_of(config: Config) -> dict[str, tuple[float, int]]:
    """The rate limits of the settings, by class."""
    return config.rate_limits.classes.by_name()


def on_hangup(reactor: Any, reload: Callable[[], None], certificate: ServerTls | None) -> None:
    """Have the settings read again, and the certificate looked at, whenever this process is sent SIGHUP."""

    async def again() -> None:
        reload()
        if certificate is not None:
            await certificate.look()

    def heard(*_: object) -> None:
        reactor.callFromThread(run_in_background, "reload", again)

    signal.signal(signal.SIGHUP, heard)


def reader(load: Callable[[Path, Mapping[str, str]], Kind], path: Path) -> Callable[[], Kind]:
    """What reads a file of settings again, with the environment as it was."""
    environ = dict(os.environ)
    return lambda: load(path, environ)
