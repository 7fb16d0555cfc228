"""Keys: ours, and by the way those of others (FED-9). Nobody need say who asks."""

from __future__ import annotations

from typing import Any

from synapse_like.handlers.server_keys import ServerKeys
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.protocol.errors import BadJson
from synapse_like.protocol.identifiers import parse_server_name

#: Servers that may be asked about in one request.
MOST_SERVERS = 100
_LATEST = 2**53


class KeyEndpoints:
    """/_matrix/key/v2."""

    def __init__(self, server_keys: ServerKeys) -> None:
        self._server_keys = server_keys

    async def own(self, call: Call[str]) -> object:
        """Our keys; which one is asked for does not matter."""
        headers = {"Cache-Control": f"public, max-age={self._server_keys.cached_seconds()}"}
        return Response(200, headers, self._server_keys.own().encoded)

    async def of_server(self, call: Call[str]) -> object:
        """The keys of one server."""
        minimum = call.query.integer("minimum_valid_until_ts", None, 0, _LATEST)
        name = parse_server_name(call.params["server"])
        return {"server_keys": await self._server_keys.of_others({name: minimum})}

    async def of_servers(self, call: Call[str]) -> object:
        """The keys of several servers: `{"server_keys": {server: {key ID: {"minimum_valid_until_ts": …}}}}`."""
        asked = call.body.get("server_keys")
        if not isinstance(asked, dict):
            raise BadJson("server_keys: must be an object.")
        if len(asked) > MOST_SERVERS:
            raise BadJson(f"server_keys: must not name more than {MOST_SERVERS} servers.")
        wanted = {parse_server_name(name): _minimum(criteria) for name, criteria in asked.items()}
        return {"server_keys": await self._server_keys.of_others(wanted)}


def _minimum(criteria: Any) -> int | None:
    """Until when all the keys of a server should be valid, by what is said for each."""
    if not isinstance(criteria, dict) or not all(isinstance(of_key, dict) for of_key in criteria.values()):
        raise BadJson("server_keys: what is wanted of each key must be an object.")
    times = [of_key.get("minimum_valid_until_ts") for of_key in criteria.values()]
    return max((time for time in times if type(time) is int), default=None)


def mount_keys(endpoints: KeyEndpoints) -> Mount[str]:
    """The routes."""
    routes = [
        Route("GET", "/server", endpoints.own, auth=Auth.NONE, rate="read"),
        Route("GET", "/server/{key_id}", endpoints.own, auth=Auth.NONE, rate="read"),
        Route("GET", "/query/{server}", endpoints.of_server, auth=Auth.NONE, rate="strangers"),
        Route("GET", "/query/{server}/{key_id}", endpoints.of_server, auth=Auth.NONE, rate="strangers"),
        Route("POST", "/query", endpoints.of_servers, auth=Auth.NONE, rate="strangers", body=Body.OBJECT),
    ]
    return Mount("/_matrix/key/v2", routes)
