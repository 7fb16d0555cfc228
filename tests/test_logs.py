"""The log: one line for each event, whoever logs it; what it belongs to; and what must not stand in it."""

from __future__ import annotations

import contextvars
import logging
import re
import sys
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger as TwistedLogger
from twisted.logger import globalLogPublisher
from twisted.python import log

from synapse_like import logs
from synapse_like.logs import Logger, bind, get_logger, scrub

Output = pytest.CaptureFixture[str]


def logger(output_format: logs.Format = "json", level: logs.Level = "info") -> Logger:
    logs.configure(output_format, level, adopt_twisted=False)
    return get_logger("synapse_like.tests")


def lines(output: Output) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in output.readouterr().err.splitlines()]


# Lines.


def test_text_line_has_time_level_logger_message_and_values(capsys: Output) -> None:
    logger("text").info("the room was purged", room="!a:b", events=3, ratio=0.5, by=None)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info     synapse_like\.tests: "
        r"the room was purged room=!a:b events=3 ratio=0\.5 by=None\n",
        capsys.readouterr().err,
    )


def test_json_line_has_the_same(capsys: Output) -> None:
    logger().warning("the room was purged", room="!a:b", events=3)
    (line,) = lines(capsys)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "synapse_like.tests",
        "message": "the room was purged",
        "room": "!a:b",
        "events": 3,
    }


def test_values_cannot_forge_lines_or_values(capsys: Output) -> None:
    logger("text").info("joined", user="x\n2014 info y: forged", name="a b=c", quote='"', nothing="")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.endswith(r'joined user="x\n2014 info y: forged" name="a b=c" quote="\"" nothing=""' + "\n")


def test_message_with_line_breaks_and_control_characters_cannot_forge_a_line(capsys: Output) -> None:
    logger("text").info("one\ntwo\x1b[0m")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(": one")
    assert second == r"    two\x1b[0m"


@pytest.mark.parametrize("output_format", ["text", "json"])
@pytest.mark.parametrize("value", ["\udc80", 2**70, {1: b"\xff"}, {2, 3}, object(), [{"a": ("b",)}], float("nan")])
def test_any_value_can_be_logged(capsys: Output, output_format: logs.Format, value: object) -> None:
    logger(output_format).info("here", value=value)
    assert "here" in capsys.readouterr().err


def test_traceback_follows_its_line_in_text(capsys: Output) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logger("text").exception("it failed", task="a")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("it failed task=a")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    ValueError: broken"
    assert all(line.startswith("    ") for line in rest)


def test_traceback_is_a_value_in_json(capsys: Output) -> None:
    error = ValueError("broken")
    logger().error("it failed", exc_info=error)
    (line,) = lines(capsys)
    assert line["exception"] == "ValueError: broken"
    assert "exc_info" not in line


def test_levels_below_the_configured_one_are_silent(capsys: Output) -> None:
    log = logger(level="warning")
    log.debug("1")
    log.info("2")
    log.warning("3")
    log.error("4")
    assert [line["message"] for line in lines(capsys)] == ["3", "4"]


def test_log_that_cannot_be_written_does_not_stop_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    logger().info("never seen")


# What others log.


def test_standard_library_logs_to_the_same_place(capsys: Output) -> None:
    logger()
    library = logging.getLogger("some.library")
    library.debug("not this")
    library.warning("%s of %d", "two", 3)
    try:
        raise ValueError("broken")
    except ValueError:
        library.exception("failed")
    ours = [line for line in lines(capsys) if line["logger"] == "some.library"]
    assert [(line["level"], line["message"]) for line in ours] == [("warning", "two of 3"), ("error", "failed")]
    assert ours[1]["exception"].endswith("ValueError: broken")


def test_configuring_twice_does_not_log_twice(capsys: Output) -> None:
    logger()
    logger()
    logging.getLogger("some.library").warning("once")
    assert len([line for line in lines(capsys) if line["message"] == "once"]) == 1


def test_record_whose_arguments_do_not_fit_is_logged_all_the_same(capsys: Output) -> None:
    logger()
    # Given to our handler alone: pytest's own raises on such a record.
    record = logging.LogRecord("some.library", logging.WARNING, __file__, 1, "%d apples", ("no",), None)
    (ours,) = [handler for handler in logging.getLogger().handlers if type(handler).__module__ == logs.__name__]
    ours.handle(record)
    assert "%d apples ('no',)" in capsys.readouterr().err


def test_twisted_logs_to_the_same_place(capsys: Output) -> None:
    logger()
    globalLogPublisher.addObserver(logs.observe_twisted)
    try:
        twisted = TwistedLogger("some.protocol")
        twisted.info("not this: a factory starts")
        log.msg("nor in the old way")
        log.err("but this")
        twisted.warn("port {port} is taken", port=80)
        try:
            raise ValueError("broken")
        except ValueError:
            twisted.failure("it failed")
    finally:
        globalLogPublisher.removeObserver(logs.observe_twisted)
    ours = [line for line in lines(capsys) if line["logger"] in {"some.protocol", "twisted"}]
    assert [(line["level"], line["message"]) for line in ours] == [
        ("critical", "'but this'"),
        ("warning", "port 80 is taken"),
        ("critical", "it failed"),
    ]
    assert "ValueError: broken" in ours[2]["exception"]


# What a line belongs to.


def test_bound_values_stand_in_every_line_of_the_block_and_in_no_other(capsys: Output) -> None:
    log = logger()
    with bind(request="r1"):
        log.info("1")
        with bind(user="@alice:a", request="r2"):
            log.info("2", user="@bob:a")
        log.info("3")
    log.info("4")
    found = [(line.get("request"), line.get("user")) for line in lines(capsys)]
    assert found == [("r1", None), ("r2", "@bob:a"), ("r1", None), (None, None)]


def test_interleaved_coroutines_keep_their_own_bound_values(capsys: Output) -> None:
    log = logger()
    waits: dict[str, Deferred[None]] = {"r1": Deferred(), "r2": Deferred()}

    async def deeper(request: str) -> None:
        await waits[request]
        log.info(request)

    async def handle(request: str) -> None:
        with bind(request=request):
            await deeper(request)

    async def started_within() -> None:
        log.info("r3")

    with bind(request="r3"):
        started = Deferred.fromCoroutine(started_within())
    results = [Deferred.fromCoroutine(handle(request)) for request in waits]
    with bind(request="the one that wakes them"):
        waits["r2"].callback(None)
        waits["r1"].callback(None)
    log.info("outside")
    assert all(result.called for result in [*results, started])
    found = [(line["message"], line.get("request")) for line in lines(capsys)]
    assert found == [("r3", "r3"), ("r2", "r2"), ("r1", "r1"), ("outside", None)]


def test_abandoned_coroutine_leaves_the_bound_values_of_others_alone(capsys: Output) -> None:
    async def never_finished() -> None:
        with bind(request="abandoned"):
            await Deferred()

    coroutine = never_finished()
    contextvars.copy_context().run(coroutine.send, None)
    with bind(request="r1"):
        coroutine.close()
        logger().info("here")
    assert lines(capsys)[0]["request"] == "r1"


# Secrets.


@pytest.mark.parametrize("key", ["password", "Access_Token", "token", "secret", "code", "body", "content"])
def test_values_under_secret_keys_are_struck_out(capsys: Output, key: str) -> None:
    logger().info("here", **{key: "hunter2"}, deep=[{key: {"a": "hunter2"}}])
    text = capsys.readouterr().err
    assert "hunter2" not in text
    assert text.count("…") == 2


@pytest.mark.parametrize("output_format", ["text", "json"])
def test_secrets_do_not_show_in_messages_tracebacks_and_urls(capsys: Output, output_format: logs.Format) -> None:
    log = logger(output_format)
    try:
        raise ValueError("GET /events?from=s1&access_token=hunter2&timeout=1 failed")
    except ValueError:
        log.exception("at postgresql://user:hunter2@host/db", url=b"http://h/x?token=hunter2#a")
    text = capsys.readouterr().err
    assert "hunter2" not in text
    assert "timeout=1" in text
    assert "postgresql://user:…@host/db" in text


def test_what_is_not_secret_stays() -> None:
    values = {"status": 200, "codes": [1, 2.5, True, None], "url": "http://h:80/a?from=1", "text": "a=b"}
    assert scrub(values) == values
