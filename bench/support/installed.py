"""Servers that are measured beside each other, installed as those who run them install them.

Each lives in a venv of its own, with what it needs and nothing else: what else lies in an environment may be loaded,
too, and has to be looked through for every module.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def usual_venvs() -> Path:
    """Where they are, if nothing else is said."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "synapse_like_bench"


def make(venv: Path) -> Path:
    """Make a venv, if it is not there; its Python."""
    python = venv / "bin/python"
    if not (venv / "bin/pip").exists():
        venv.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    return python


def install(python: Path, package: str) -> None:
    """Install something, as `pip install` takes it, with all that it needs.

    :raises subprocess.CalledProcessError: that failed.
    """
    subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
