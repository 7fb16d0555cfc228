"""Uploading files, fetching them, and smaller pictures (MEDIA-1, EVS-10)."""

from __future__ import annotations

from typing import Any

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.content import ContentRepository
from synapse_like.handlers.thumbnails import Thumbnails, method_of
from synapse_like.http.files import Named, answer, send_file
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route

#: The largest side of a smaller picture that one may ask for.
LARGEST_SIDE = 65535


class ContentEndpoints:
    """Upload, download and thumbnails.

    :param base_url: the address by which clients reach this server.
    """

    def __init__(self, repository: ContentRepository, thumbnails: Thumbnails, server_name: str, base_url: str) -> None:
        self._repository = repository
        self._thumbnails = thumbnails
        self._server_name = server_name
        self._base_url = base_url

    async def upload(self, call: Call[Requester]) -> object:
        """Keep a file and say by which URL it is fetched."""
        return {"content_token": f"{self._base_url}/_matrix/content/{await self._keep(call)}"}

    async def upload_media(self, call: Call[Requester]) -> object:
        """The same, answered with the URI that later clients expect."""
        return {"content_uri": f"mxc://{self._server_name}/{await self._keep(call)}"}

    async def _keep(self, call: Call[Requester]) -> str:
        filename = call.query.text("filename")
        return await self._repository.upload(call.requester.user_id, call.body, call.header("Content-Type"), filename)

    async def download(self, call: Call[Requester]) -> Response:
        """A file of this server, by what `upload` has answered."""
        return await send_file(self._repository, call, self._server_name)

    async def download_media(self, call: Call[Requester]) -> Response:
        """A file of any server, by the two parts of its URI."""
        return await send_file(self._repository, call, call.params["server"])

    async def thumbnail(self, call: Call[Requester]) -> Response:
        """A smaller picture of a picture."""
        query = call.query
        query.required("width")
        query.required("height")
        width = query.integer("width", 1, 1, LARGEST_SIDE)
        height = query.integer("height", 1, 1, LARGEST_SIDE)
        method = method_of(query.text("method", "scale"))
        found = await self._repository.find(call.params["server"], call.params["content_id"])
        thumbnail = await self._thumbnails.get(found, width, height, method)
        name = Named(thumbnail.sha256, thumbnail.size, thumbnail.mimetype, None)
        return await answer(call, name, lambda: self._thumbnails.open(thumbnail))


def mount_content(endpoints: ContentEndpoints, *, max_upload: int, upload_seconds: float) -> Mount[Requester]:
    """The routes of both spellings.

    :param max_upload: bytes of an upload at the most.
    :param upload_seconds: how long one may take.
    """
    taking: dict[str, Any] = {
        "rate": "send",
        "body": Body.STREAM,
        "max_body": max_upload,
        "receive_seconds": upload_seconds,
    }
    giving: dict[str, Any] = {"auth": Auth.NONE, "rate": "read"}
    file = "{server}/{content_id}"
    routes = [
        Route("POST", "/content", endpoints.upload, **taking),
        Route("GET", "/content/{content_id}", endpoints.download, **giving),
        Route("POST", "/media/v1/upload", endpoints.upload_media, **taking),
        Route("GET", f"/media/v1/download/{file}", endpoints.download_media, **giving),
        Route("GET", f"/media/v1/download/{file}/{{filename}}", endpoints.download_media, **giving),
        Route("GET", f"/media/v1/thumbnail/{file}", endpoints.thumbnail, **giving),
    ]
    return Mount("/_matrix", routes, cors=True)
