"""The operator's command line.

Every command but `init` reads the settings file and then calls one function of `app`. What a person can mend
(wrong settings, a taken name, a database in use) ends as a sentence on standard error, with exit code 1; a
traceback always means a fault of the program.

Commands are in modules by subject. Each is loaded when it is asked for, and what it needs of the other floors when it
runs.
"""

from __future__ import annotations

import click

from synapse_like import __version__
from synapse_like.commands.options import Commands

#: The commands, by the modules that have them: one is loaded when it is asked for.
_COMMANDS = {
    "setup": ("init", "check-config", "run", "migrate", "rotate-key"),
    "people": ("register-user", "reset-password", "set-admin", "deactivate-user", "export-user"),
    "rooms": ("explain-state", "purge-room", "purge-history"),
    "federation": ("federation",),
    "media": ("media",),
    "identity": ("identity",),
    "care": ("doctor", "backup", "restore", "copy-database", "verify"),
}


@click.group(cls=Commands, modules={name: module for module, names in _COMMANDS.items() for name in names})
@click.version_option(__version__, prog_name="synapse_like")
def main() -> None:
    """A Matrix home server."""
