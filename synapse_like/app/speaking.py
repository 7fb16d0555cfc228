"""What asks other servers, put together."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace
from twisted.python.threadpool import ThreadPool

from synapse_like import __version__
from synapse_like.app.foundation import Foundation
from synapse_like.app.parts import timeouts
from synapse_like.background import Slices
from synapse_like.federation.agent import Agent
from synapse_like.federation.client import FederationClient
from synapse_like.federation.keyring import Keyring
from synapse_like.federation.resolver import ServerResolver, SystemLookup

#: Threads that check signatures.
SIGNATURE_THREADS = 1


class Speaking(Struct):
    """What asks other servers, and knows who they are.

    :ivar threads: of the slices.
    :ivar slices: where what others tell is read and checked, if it is much.
    """

    agent: Agent
    client: FederationClient
    keyring: Keyring
    threads: ThreadPool
    slices: Slices


def make_speaking(on: Foundation) -> Speaking:
    """Put it together."""
    federation = on.config.federation
    agent = make_agent(on)
    client = FederationClient(agent, on.name, on.own_keys.signing, slow=timeouts(on.config, slow=True))
    threads = ThreadPool(0, SIGNATURE_THREADS, "signatures")
    slices = Slices(on.reactor, threads)
    keyring = Keyring(
        on.own_keys,
        client,
        on.database,
        on.clock,
        slices,
        accept_relayed=federation.accept_relayed_keys,
        trusted_key_servers=federation.trusted_key_servers,
    )
    return Speaking(agent, client, keyring, threads, slices)


def make_agent(on: Foundation, *, seconds: float | None = None) -> Agent:
    """What reaches other servers.

    :param seconds: how long they may take to send an answer, where it is not what is usual.
    """
    federation, usual = on.config.federation, timeouts(on.config)
    return Agent(
        on.reactor,
        ServerResolver(SystemLookup(on.reactor), on.clock),
        on.client_tls,
        enabled=federation.enabled,
        allow_private_addresses=federation.allow_private_addresses,
        timeouts=usual if seconds is None else replace(usual, body=seconds),
        user_agent=f"synapse_like/{__version__}",
    )
