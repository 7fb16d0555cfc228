"""Where something was measured, and of what: the head of each file in bench/results."""

from __future__ import annotations

import os
import platform
import subprocess

from tests.support.server import ROOT


def place(*programs: str) -> str:
    """The machine and the commit, in two lines.

    :param programs: names and versions of what matters beside Python.
    """
    changed = _git("status", "--porcelain", "synapse_like")
    versions = ", ".join((f"Python {platform.python_version()}", *programs))
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}; {versions}\n"
        f"commit {_git('rev-parse', '--short', 'HEAD')}{' with changes' if changed else ''}"
    )


def _git(*words: str) -> str:
    told = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or ("" if told.returncode == 0 else "unknown")
