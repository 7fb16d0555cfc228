"""`twistd synapse_like`: the server as one of Twisted's services.

Twisted looks for files in the folders `twisted/plugins` along the path; this one has no `__init__.py`, with
which it would hide Twisted itself. Every `twistd` loads this file, whatever it is to run, so that the server's own
modules are imported only once it is the server.
"""

import os
from pathlib import Path
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.plugin import IPlugin
from twisted.python.usage import Options, UsageError
from zope.interface import implementer


class HomeServerOptions(Options):
    """The command line after `twistd synapse_like`."""

    optParameters = [["config", "c", "homeserver.yaml", "The settings file."]]  # noqa: N815, RUF012 - Twisted's
    optFlags = [["identity", "i", "Run an identity server, whose settings those are."]]  # noqa: N815, RUF012 - Twisted's

    def postOptions(self) -> None:  # noqa: N802 - Twisted's name
        """Read the settings, while `twistd` still answers a UsageError with a sentence.

        :raises UsageError: with all the faults of the settings; or there are to be several processes.
        """
        from synapse_like.config import ConfigError, load
        from synapse_like.identity.settings import IDENTITY_SERVER

        read = IDENTITY_SERVER.load if self["identity"] else load
        try:
            self["settings"] = read(Path(self["config"]), os.environ)
        except ConfigError as error:
            raise UsageError(str(error)) from error
        if getattr(self["settings"], "processes", 1) > 1:
            raise UsageError("processes: twistd runs one. For several use `synapse_like run`")


@implementer(IServiceMaker, IPlugin)
class HomeServerMaker:
    """Tells `twistd` of the server."""

    tapname = "synapse_like"
    description = "A Matrix home server"
    options = HomeServerOptions

    def makeService(self, options: Any) -> IService:  # noqa: N802 - Twisted's name
        """The service for the settings that were read."""
        from synapse_like.app.service import make_service

        return make_service(options["settings"])


home_server = HomeServerMaker()
