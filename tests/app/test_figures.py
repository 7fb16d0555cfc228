"""Figures for Prometheus of several processes on one page."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorUNIX
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from synapse_like.app import figures


def registry(count: float) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("answers", "What was answered.", ["status"], registry=made).labels("2xx").inc(count)
    Histogram("seconds", "How long it took.", buckets=(1, 2), registry=made).observe(count)
    Gauge("fill", "How full it is.", registry=made).set(float("inf"))
    return made


class PageTests(TestCase):
    def test_each_figure_says_of_which_process_it_is(self) -> None:
        page = figures.page({2: figures.written(registry(1.5)), 1: figures.written(registry(7)), 3: None}).decode()
        families = {family.name: family for family in text_string_to_metric_families(page)}
        told = {
            (sample.name, *sample.labels.items()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert told["answers_total", ("process", "1"), ("status", "2xx")] == 7
        assert told["answers_total", ("process", "2"), ("status", "2xx")] == 1.5
        assert told["seconds_bucket", ("le", "2.0"), ("process", "1")] == 0
        assert told["seconds_bucket", ("le", "2.0"), ("process", "2")] == 1
        assert told["seconds_bucket", ("le", "+Inf"), ("process", "2")] == 1
        assert told["fill", ("process", "1")] == float("inf")
        up = {sample.labels["process"]: sample.value for sample in families["synapse_like_process_up"].samples}
        assert up == {"1": 1, "2": 1, "3": 0}
        assert families["answers"].documentation == "What was answered."
        assert (families["answers"].type, families["seconds"].type) == ("counter", "histogram")
        assert page.count("# HELP answers_total") == 1

    async def test_processes_are_asked_and_who_is_not_there_is_left_out(self) -> None:
        folder = Path(mkdtemp(prefix="figures"))
        told = figures.written(registry(3))
        unix = IReactorUNIX(reactor)
        port = unix.listenUNIX(str(folder / "1"), figures.Teller(lambda: succeed(told)))
        with capture_logs() as logged:
            answers = await figures.ask_all(reactor, {1: folder / "1", 2: folder / "2"})
        await Deferred.fromCoroutine(_stop(port))
        assert answers == {1: told, 2: None}
        assert len([line for line in logged if line["log_level"] == "warning"]) == 1

    async def test_who_says_nothing_is_not_waited_for_longer_than_that(self) -> None:
        self.patch(figures, "ASK_SECONDS", 0.05)
        folder = Path(mkdtemp(prefix="figures"))
        port = IReactorUNIX(reactor).listenUNIX(str(folder / "1"), Factory.forProtocol(Protocol))
        with capture_logs() as logged:
            assert await figures.ask(reactor, folder / "1") is None
        await Deferred.fromCoroutine(_stop(port))
        assert len([line for line in logged if line["log_level"] == "warning"]) == 1


async def _stop(port: Any) -> None:
    await port.stopListening()
