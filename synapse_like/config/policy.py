"""Who is asked whether something may be done."""

from __future__ import annotations

from typing import Literal

from synapse_like.config.values import Amount, FilePath, ListOf, OneOrMore, Section, Settings, Url

PolicyHook = Literal["registration", "invites", "room_creation", "local_sends", "remote_sends"]


class PolicyServer(Settings, frozen=True):
    """A server that is asked whether something may be done."""

    url: Url
    """Where it is asked, by POST."""

    hooks: OneOrMore[PolicyHook]
    """What it is asked about: registration, invites, room_creation, local_sends, remote_sends."""

    timeout: Amount = 5.0
    """Seconds that it may take to answer."""

    on_failure: Literal["open", "closed"] = "open"
    """What counts if it does not answer in time: `open` allows, `closed` refuses."""


class Policy(Section, frozen=True):
    """The policy servers, which are asked before things happen; docs/operating.md says how they answer."""

    servers: ListOf[PolicyServer] = ()
    """Each with its `url`, its `hooks`, and if need be `timeout` (5) and `on_failure` (open, or closed)."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""
