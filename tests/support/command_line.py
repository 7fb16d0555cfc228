"""The operator's commands, in the process of the tests: the same as in one of their own, but for the time it takes."""

from __future__ import annotations

from click.testing import CliRunner

from synapse_like.commands import main


def must_do(*words: str) -> None:
    """Run a command.

    :raises RuntimeError: it failed; with what it said.
    """
    result = CliRunner().invoke(main, words)
    if result.exit_code:
        raise RuntimeError(f"{words[0]} failed:\n{result.output}") from result.exception
