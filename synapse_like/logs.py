"""The log: one line per event on standard error, as text for people or as JSON for machines.

    _log = get_logger(__name__)
    _log.info("the room was purged", room=room_id, events=1200)

gives

    2014-10-06T12:00:00.000Z info     synapse_like.handlers.rooms: the room was purged room=!a:b events=1200

A message is a sentence that never changes; what varies stands in the values. A traceback follows its line,
indented (in JSON it is the value `exception`).

What Twisted and the standard library log goes the same way. Which request and which user a line belongs to
is bound once (`bind`) and found by every line below. Secrets are struck out of values and of URLs before
anything is written (`scrub`); what people write to each other does not belong in the log at all.

A call below the level costs an attribute and an empty function. `configure` comes first in every process:
what is logged before it goes to structlog's default, standard output.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar, Token
from functools import cache, lru_cache
from types import TracebackType
from typing import Any, Literal, cast

import orjson
import structlog
from structlog.typing import FilteringBoundLogger as Logger
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import provider

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
Values = MutableMapping[str, Any]

__all__ = ["Format", "Level", "Logger", "bind", "configure", "get_logger", "scrub", "unconfigure"]

_STRUCK_OUT = "…"
#: Keys whose values are secret, or what people say to each other.
_SECRET_KEYS = frozenset(
    [
        "access_token",
        "authorization",
        "body",
        "client_secret",
        "code",
        "content",
        "new_password",
        "password",
        "secret",
        "session",
        "signing_key",
        "token",
        "tokens",
    ]
)
#: Secrets in the query of a URL, and the password of a URL with a user name.
_SECRET_IN_QUERY = re.compile(
    r"((?:\baccess_token|[?&](?:client_secret|code|password|secret|session|token))=)[^&\s#\"']+"
)
_PASSWORD_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")

#: Printable ASCII without spaces, quotation marks and what divides a name from a value.
_PLAIN = re.compile(r"[!#-<>-~]+")

_Values = tuple[tuple[str, object], ...]
#: Each long poll holds some for as long as it waits: pairs take a third of what dictionaries would.
_bound: ContextVar[_Values] = ContextVar("synapse_like.logs", default=())


#: Each keeps for itself how it was set up when it was first used, which is quick, until `configure` has it look again.
_given_out: list[Any] = []


def get_logger(name: str) -> Logger:
    """A logger, to be kept in the module: `_log = get_logger(__name__)`."""
    logger = structlog.get_logger(logger_name=name)
    _given_out.append(logger)
    return cast(Logger, logger)


class _Binding:
    """Values bound for the length of a `with` block."""

    __slots__ = ("_token", "_values")

    def __init__(self, values: _Values) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._token: Token[_Values] = _bound.set(_bound.get() + self._values)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:  # noqa: SIM105 - it would cost each request three calls
            _bound.reset(self._token)
        except ValueError:
            # A coroutine that nobody finishes is closed by the garbage collector, outside of its context: there is
            # nothing to undo there.
            pass


def bind(**values: object) -> _Binding:
    """Have every line carry these values, for the length of a `with` block.

    Twisted runs each `Deferred.fromCoroutine` in a context of its own, a copy of its caller's: the values
    hold in the coroutine across its waits and in all that it starts, and never show in another request.
    """
    return _Binding(tuple(values.items()))


def scrub(value: Any) -> Any:
    """The value without what stands under secret keys and without tokens and passwords in URLs."""
    if isinstance(value, str):
        if "=" in value:
            value = _SECRET_IN_QUERY.sub(rf"\1{_STRUCK_OUT}", value)
        return _PASSWORD_IN_URL.sub(rf"\1{_STRUCK_OUT}@", value) if "://" in value else value
    if isinstance(value, Mapping):
        return {
            key: _STRUCK_OUT if isinstance(key, str) and key.lower() in _SECRET_KEYS else scrub(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [scrub(inner) for inner in value]
    if value is None or isinstance(value, (int, float)):
        return value
    return scrub(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def configure(format: Format = "text", level: Level = "info", *, adopt_twisted: bool = True) -> None:  # noqa: A002
    """Set up the log of this process. May be called again.

    :param format: ``text`` or ``json``.
    :param level: the lowest level that is written: ``debug``, ``info``, ``warning`` or ``error``.
    :param adopt_twisted: take over Twisted's own messages. Not under ``twistd``, which puts its own log in
        the place of standard error, so that our lines go where Twisted's are.
    """
    structlog.configure(
        processors=[_add_bound_values, _add_traceback, _render_json if format == "json" else _render_text],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Output,
        cache_logger_on_first_use=True,
    )
    root = _let_go()
    root.addHandler(_StandardLibraryHandler())
    root.setLevel(level.upper())
    if adopt_twisted:
        _adopt_twisted()


def unconfigure() -> None:
    """Have the log of this process be as it was before `configure`: for tests, which share a process."""
    structlog.reset_defaults()
    _let_go().setLevel(logging.WARNING)


def _let_go() -> logging.Logger:
    """Part from how the log was set up.

    :returns: the standard library's first logger, without a handler of ours.
    """
    for logger in _given_out:
        vars(logger).pop("bind", None)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StandardLibraryHandler)]:
        root.removeHandler(handler)
    return root


class _Output:
    """Where lines end. Looks for standard error each time: twistd and pytest put others in its place."""

    def __init__(self, *_: object) -> None:
        pass

    def debug(self, line: str) -> None:
        try:  # noqa: SIM105 - it would cost each line three calls
            sys.stderr.write(line)
        except OSError:
            # A full disk or a closed pipe behind the log must not stop the server.
            pass

    info = warning = error = critical = debug


# The steps from a call to a line.


def _add_bound_values(_: object, level: str, values: Values) -> Values:
    """Give the line its order: time, level, logger, message, what is bound, the call's own values."""
    ms = int(time.time() * 1000)
    line: Values = {
        "time": f"{_second(ms // 1000)}.{ms % 1000:03}Z",
        "level": level,
        "logger": values.pop("logger_name", ""),
        "message": values.pop("event"),
    }
    line.update(_bound.get())
    line.update(values)
    return line


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    """A moment without its fraction; the same for all lines of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _add_traceback(_: object, __: str, values: Values) -> Values:
    """Turn `exc_info` (as the standard library has it) into the text of the traceback."""
    raised = values.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()
    if isinstance(raised, BaseException):
        raised = (type(raised), raised, raised.__traceback__)
    if raised and raised[0] is not None:
        values["exception"] = logging.Formatter().formatException(raised)
    return values


def _render_json(_: object, __: str, values: Values) -> str:
    return _json(scrub(values)) + "\n"


def _render_text(_: object, __: str, values: Values) -> str:
    moment, level, logger, text = (values.pop(key) for key in ("time", "level", "logger", "message"))
    more = values.pop("exception", None)
    told = "".join([f" {key}={_word(key, value)}" for key, value in values.items()])
    # A message of several lines comes from elsewhere: Twisted puts tracebacks into some.
    if more is None and type(text) is str and _is_plain(text.replace(" ", "")):
        return f"{moment} {level:<8} {logger}: {text}{told}\n"
    message, *lines = str(scrub(text)).splitlines() or [""]
    lines += str(scrub(more or "")).splitlines()
    indented = "".join(f"    {_printable(line)}\n" for line in lines)
    return f"{moment} {level:<8} {logger}: {_printable(message)}{told}\n{indented}"


def _word(key: str, value: object) -> str:
    """A value as one word, or quoted, so that nobody can forge another value or a line; without secrets."""
    if key.lower() in _SECRET_KEYS:
        return _STRUCK_OUT
    if value is None or type(value) is int:
        return str(value)
    if type(value) is str and _is_plain(value):
        return value
    value = scrub(value)
    if isinstance(value, str):
        return value if value and value.isprintable() and not any(letter in value for letter in ' "=') else _json(value)
    return _json(value) if isinstance(value, (dict, list)) else str(value)


def _is_plain(text: str) -> bool:
    """Whether a text holds nothing that would have to be struck out or quoted, as most do: seen with one look."""
    return _PLAIN.fullmatch(text) is not None and "://" not in text


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return json.dumps(value, default=str)  # slower, but takes lone surrogates and huge numbers


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


# What others log.


class _StandardLibraryHandler(logging.Handler):
    """Hands the records of `logging` to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg} {record.args}"
        get_logger(record.name).log(record.levelno, message, exc_info=record.exc_info)


@cache
def _adopt_twisted() -> None:
    """Have Twisted's messages come to our log; once in the life of the process, as Twisted wants it."""
    globalLogBeginner.beginLoggingTo([observe_twisted], redirectStandardIO=False)


@provider(ILogObserver)
def observe_twisted(event: LogEvent) -> None:
    namespace = event.get("log_namespace", "log_legacy")
    logger = get_logger("twisted" if namespace == "log_legacy" else namespace)
    say: Callable[..., object] = getattr(logger, _TWISTED_LEVELS.get(event["log_level"].name, "error"))
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        say(formatEvent(event) or "unhandled failure", exception=failure.getTraceback())
    else:
        say(formatEvent(event))


#: What to Twisted is worth telling, factories that start and stop, is too much for those who run a server.
_TWISTED_LEVELS = {
    "debug": "debug",
    "info": "debug",
    "warn": "warning",
    "error": "error",
    "critical": "critical",
}
