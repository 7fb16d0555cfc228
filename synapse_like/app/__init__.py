"""The program: what puts a server together, runs it, and serves the operator's commands.

parts            what needs nothing but the settings: the database, the keys, TLS
entrance         how people come in: the stages of registration and login
server           the composition root: all parts of a server, put together once
identity         an identity server: its parts, and how it runs
service          servers that run
content          the content repository, put together, and the commands that look after it
administration   what the other commands of the operator do
"""

from synapse_like.app.administration import (
    deactivate_user,
    explain_state,
    federation_retry,
    federation_status,
    identity_key,
    identity_migrate,
    identity_status,
    migrate,
    purge_room,
    register_user,
    reset_password,
    set_admin,
)
from synapse_like.app.content import media_purge, media_reconcile, media_status
from synapse_like.app.parts import StartError
from synapse_like.app.server import build
from synapse_like.app.service import HomeServerService, make_service, run

__all__ = [
    "HomeServerService",
    "StartError",
    "build",
    "deactivate_user",
    "explain_state",
    "federation_retry",
    "federation_status",
    "identity_key",
    "identity_migrate",
    "identity_status",
    "make_service",
    "media_purge",
    "media_reconcile",
    "media_status",
    "migrate",
    "purge_room",
    "register_user",
    "reset_password",
    "run",
    "set_admin",
]
