"""The operator's command line.

Every command but `init` reads the settings file and then calls one function of `app`. What a person can mend
(wrong settings, a taken name, a database in use) ends as a sentence on standard error, with exit code 1; a
traceback always means a fault of the program.

Commands are in modules by subject. What one needs of the other floors it imports when it runs: `--help` is quick.
"""

from __future__ import annotations

import click

from synapse_like import __version__
from synapse_like.commands import care, federation, identity, media, people, rooms, setup
from synapse_like.commands.options import Commands


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="synapse_like")
def main() -> None:
    """A Matrix home server."""


for command in (
    setup.init,
    setup.check_config,
    setup.run,
    setup.migrate,
    setup.rotate_key,
    people.register_user,
    people.reset_password,
    people.set_admin,
    people.deactivate_user,
    people.export_user,
    rooms.explain_state,
    rooms.purge_room,
    rooms.purge_history,
    federation.federation,
    media.media,
    identity.identity,
    care.doctor,
    care.backup,
    care.restore,
    care.copy_database,
    care.verify,
):
    main.add_command(command)
