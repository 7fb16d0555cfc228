"""The operator's commands, in the process of the tests: the same as in one of their own, but for the time it takes."""

from __future__ import annotations

from threading import Lock

from click.testing import CliRunner

from synapse_like.commands import main

#: The runner takes the standard streams of the whole process.
_alone = Lock()


def must_do(*words: str) -> None:
    """Run a command.

    :raises RuntimeError: it failed; with what it said.
    """
    with _alone:
        result = CliRunner().invoke(main, words)
    if result.exit_code:
        raise RuntimeError(f"{words[0]} failed:\n{result.output}") from result.exception
