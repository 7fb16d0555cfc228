"""Sending at once.

A transport of Twisted keeps what is written to it until the reactor's next turn, in which that asks the system whether
the socket can take it. It nearly always can; and for a request or an answer of a few hundred bytes, the turn costs
more than the sending.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


def send_now(transport: Any) -> None:
    """Hand to the system now, as far as it takes it, what was just written to a transport, be it through TLS.

    What it does not take, and an error, are left to the reactor: it still waits for the socket, and comes upon them in
    its turn. So is the end of a connection; and much at once, for which its producer has been told to pause.
    """
    tcp = getattr(transport, "transport", transport)
    if isinstance(tcp, Connection) and tcp.connected and not tcp.disconnecting and not tcp.producerPaused:
        tcp.doWrite()
