"""What can go wrong in a way that the operator can mend."""

from __future__ import annotations


class StartError(Exception):
    """The server, or a command, cannot start; the message says why, for the operator."""
