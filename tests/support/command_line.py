"""The operator's commands, in the process of the tests: the same as in one of their own, but for the time it takes."""

from __future__ import annotations

from subprocess import CompletedProcess
from threading import Lock

from click.testing import CliRunner

from synapse_like import logs
from synapse_like.commands import main

#: The runner takes the standard streams of the whole process.
_alone = Lock()


def do(*words: str, typed: str = "") -> CompletedProcess[str]:
    """Run a command.

    :param typed: what it reads from standard input.
    :returns: what a process would have come to. What would have been a traceback is raised.
    """
    with _alone:
        result = CliRunner().invoke(main, words, input=typed)
        logs.unconfigure()  # the log went to a stream that is closed now
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return CompletedProcess(words, result.exit_code, result.stdout, result.stderr)


def must_do(*words: str) -> None:
    """Run a command.

    :raises RuntimeError: it failed; with what it said.
    """
    done = do(*words)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
