"""Commands that look after a server: whether it is well, backups, whether all it keeps holds together."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The settings.")
@click.option("--ask", multiple=True, metavar="SERVER", help="Servers to ask for the time, and to come and see ours.")
@click.option("--mail-to", metavar="ADDRESS", help="Send a letter there; without it, none is sent.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def doctor(path: Path, ask: tuple[str, ...], mail_to: str | None, as_json: bool) -> None:
    """Check settings, files, database, clock, DNS, certificate, federation, TURN, mail and identity servers.

    Nothing is changed. Each line says ok, warning, fault or skipped, what was found, and what to do. The exit code is 1
    if there is a fault.
    """
    from synapse_like import logs
    from synapse_like.app.doctor import diagnose
    from synapse_like.app.doctor.findings import Finding, Report
    from synapse_like.config import ConfigError, load
    from synapse_like.protocol.identifiers import parse_server_name

    others = [parse_server_name(name) for name in ask]
    try:
        config = load(path, os.environ)
    except ConfigError as error:
        advice = "Correct it; the comments in the file tell what each setting does."
        report = Report(tuple(Finding("settings", "fault", f"{fault}.", advice) for fault in error.faults))
    else:
        logs.configure("text", "error")
        report = diagnose(config, path, ask=others, mail_to=mail_to)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in report.findings], indent=1, ensure_ascii=False))
    else:
        for finding in report.findings:
            click.echo(finding.line())
    if not report.is_well:
        sys.exit(1)
