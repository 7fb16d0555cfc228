"""Files for other servers (MEDIA-1): ours only, so that two servers never ask each other for the same one for ever.

As in 2014 they are for everybody, so that these requests are not signed.
"""

from __future__ import annotations

from synapse_like.handlers.content import ContentRepository
from synapse_like.http.files import send_file
from synapse_like.http.requests import Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.protocol.errors import NotFound


class FederatedContentEndpoints:
    """What other servers fetch."""

    def __init__(self, repository: ContentRepository, server_name: str) -> None:
        self._repository = repository
        self._server_name = server_name

    async def download(self, call: Call[str]) -> Response:
        """A file of this server.

        :raises NotFound: there is none, or it is another server's.
        """
        if call.params["server"].lower() != self._server_name:
            raise NotFound("This server has no such content.")
        return await send_file(self._repository, call, self._server_name, fetch=False)


def mount_federated_content(endpoints: FederatedContentEndpoints) -> Mount[str]:
    """The routes."""
    path = "/media/v1/download/{server}/{content_id}"
    routes = [
        Route("GET", path, endpoints.download, auth=Auth.NONE, rate="federation"),
        Route("GET", f"{path}/{{filename}}", endpoints.download, auth=Auth.NONE, rate="federation"),
    ]
    return Mount("/_matrix", routes)
