"""Uploading files and fetching them (EVS-10).

What users upload is never to act in the name of this server in somebody's browser: only plain pictures, sound and
video are shown inline, everything else is a download, and all of it is without scripts.
"""

from __future__ import annotations

from synapse_like.handlers.authentication import Requester
from synapse_like.handlers.content import ContentStore
from synapse_like.http.requests import Body, Call
from synapse_like.http.responses import Response
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.protocol.errors import NotFound

#: Types that a browser may show in place; none of them can hold a script.
SHOWN_INLINE = frozenset(
    ["image/png", "image/jpeg", "image/gif", "image/webp", "audio/ogg", "audio/mpeg", "video/mp4", "video/webm"]
)
SAFETY = "sandbox; default-src 'none'"


class ContentEndpoints:
    """Upload and download.

    :param base_url: the address by which clients reach this server.
    """

    def __init__(self, store: ContentStore, server_name: str, base_url: str) -> None:
        self._store = store
        self._server_name = server_name
        self._base_url = base_url

    async def upload(self, call: Call[Requester]) -> object:
        """Keep a file and say by which URL it is fetched."""
        content_id = await self._store.upload(call.requester, call.body, call.header("Content-Type"))
        return {"content_token": f"{self._base_url}/_matrix/content/{content_id}"}

    async def upload_media(self, call: Call[Requester]) -> object:
        """The same, answered with the URI that later clients expect."""
        content_id = await self._store.upload(call.requester, call.body, call.header("Content-Type"))
        return {"content_uri": f"mxc://{self._server_name}/{content_id}"}

    async def download(self, call: Call[Requester]) -> object:
        """A file."""
        return await self._send(call.params["content_id"])

    async def download_media(self, call: Call[Requester]) -> object:
        """A file of this server, by the two parts of its URI."""
        if call.params["server"] != self._server_name:
            raise NotFound("There is no such content.")
        return await self._send(call.params["content_id"])

    async def _send(self, content_id: str) -> Response:
        found, data = await self._store.find(content_id)
        headers = {
            "Content-Type": found.mimetype,
            "Content-Disposition": "inline" if found.mimetype in SHOWN_INLINE else "attachment",
            "Content-Security-Policy": SAFETY,
            "Cache-Control": "public, max-age=86400, immutable",
        }
        return Response(200, headers, data)


def mount_content(endpoints: ContentEndpoints, *, max_upload: int) -> Mount[Requester]:
    """The routes of both spellings.

    :param max_upload: bytes of an upload at the most.
    """
    routes = [
        Route("POST", "/content", endpoints.upload, rate="send", body=Body.RAW, max_body=max_upload),
        Route("GET", "/content/{content_id}", endpoints.download, auth=Auth.NONE, rate="read"),
        Route("POST", "/media/v1/upload", endpoints.upload_media, rate="send", body=Body.RAW, max_body=max_upload),
        Route("GET", "/media/v1/download/{server}/{content_id}", endpoints.download_media, auth=Auth.NONE, rate="read"),
    ]
    return Mount("/_matrix", routes, cors=True)
