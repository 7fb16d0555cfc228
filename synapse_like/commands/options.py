"""What several commands have in common: their settings, and what becomes of errors that a person can mend."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec.structs import asdict

if TYPE_CHECKING:
    from synapse_like.app.doctor.findings import Report
    from synapse_like.config import Config
    from synapse_like.identity.settings import IdentityConfig

Command = TypeVar("Command", bound=Callable[..., Any])
Chosen = TypeVar("Chosen")


class Commands(click.Group):
    """Turns the errors that a person can mend into sentences, and loads a command when it is asked for.

    :param modules: by the name of a command the module of this package that has it.
    """

    def __init__(self, *arguments: Any, modules: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._modules = modules or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self._modules.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(f"synapse_like.commands.{module}"), cmd_name.replace("-", "_"))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if not isinstance(command, Serving):
            gc.enable()
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            raise click.ClickException(sentence) from error


def _sentence(error: Exception) -> str | None:
    """What to say of an error that a person can mend; None if it is a fault of the program."""
    from synapse_like.app.errors import StartError
    from synapse_like.config import ConfigError
    from synapse_like.protocol.errors import MatrixError

    if isinstance(error, MatrixError):
        return error.message
    return str(error) if isinstance(error, ConfigError | StartError) else None


class Serving(click.Command):
    """A command that runs a server.

    There is no garbage while everything is loaded; to look for it then takes a tenth of the time until the server
    answers. So `__main__` has none looked for, which other commands undo. A server looks for it again once it runs
    (`app.service`), or cannot start.
    """

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        gc.disable()
        try:
            return super().make_context(*args, **more)
        except BaseException:
            gc.enable()
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        finally:
            gc.enable()


#: Under which the name of the settings file is kept for commands that want it, too.
_SETTINGS_FILE = "synapse_like.settings_file"


def settings_file(ctx: click.Context) -> Path:
    """The settings file of a command that `needs_config`."""
    path: Path = ctx.meta[_SETTINGS_FILE]
    return path


def _read_config(ctx: click.Context, __: click.Parameter, path: Path) -> Config:
    from synapse_like import logs
    from synapse_like.config import load

    ctx.meta[_SETTINGS_FILE] = path
    config = load(path, os.environ)
    logs.configure(config.log.format, config.log.level, adopt_twisted=False)
    return config


def _read_identity_config(ctx: click.Context, __: click.Parameter, path: Path) -> IdentityConfig:
    from synapse_like import logs
    from synapse_like.identity.settings import IDENTITY_SERVER

    ctx.meta[_SETTINGS_FILE] = path
    config = IDENTITY_SERVER.load(path, os.environ)
    logs.configure(config.log.format, config.log.level, adopt_twisted=False)
    return config


def needs_config(command: Command) -> Command:
    """Give a command the option `--config` and the settings that it names."""
    return _config_option(_read_config)(command)


def needs_identity_config(command: Command) -> Command:
    """The same for the settings of an identity server."""
    return _config_option(_read_identity_config)(command)


def _config_option(callback: Callable[..., object]) -> Callable[[Command], Command]:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=callback,
        required=True,
        metavar="FILE",
        help="The settings file.",
    )


def progress(sentence: str) -> None:
    """Tell how far a command is, on standard error, so that what comes of it stands alone on standard output."""
    click.echo(sentence, err=True)


def tell_findings(read: Callable[[], Chosen], diagnose: Callable[[Chosen], Report], as_json: bool) -> None:
    """Tell what a doctor finds, and end with 1 if there is a fault.

    :param read: reads the settings; that they have faults is a finding, too.
    """
    from synapse_like import logs
    from synapse_like.app.doctor.findings import Finding, Report
    from synapse_like.config import ConfigError

    try:
        config = read()
    except ConfigError as error:
        advice = "Correct it; the comments in the file tell what each setting does."
        report = Report(tuple(Finding("settings", "fault", f"{fault}.", advice) for fault in error.faults))
    else:
        logs.configure("text", "error")
        report = diagnose(config)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in report.findings], indent=1, ensure_ascii=False))
    else:
        for finding in report.findings:
            click.echo(finding.line())
    if not report.is_well:
        sys.exit(1)
