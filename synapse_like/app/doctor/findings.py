"""What a check has found."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warning", "fault", "skipped"]


class Finding(Struct, frozen=True):
    """One line of the report.

    :ivar check: what was looked at.
    :ivar state: a `fault` keeps something from working, a `warning` may.
    :ivar advice: what to do about it.
    """

    check: str
    state: State
    sentence: str
    advice: str = ""

    def line(self) -> str:
        """As a person reads it."""
        return f"{self.state:<8} {self.check:<15} {self.sentence} {self.advice}".rstrip()


class Report(Struct, frozen=True):
    """Everything that was found, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether there is no fault."""
        return all(finding.state != "fault" for finding in self.findings)
