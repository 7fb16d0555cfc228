"""Who is there, as clients ask for it and hear of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.support.client import Client, Json, id_of, quote


def set_status(client: Client, presence: str, status_msg: str | None = None, **more: object) -> None:
    """Say what one wants to be seen as."""
    body: Json = {"presence": presence, **more}
    if status_msg is not None:
        body["status_msg"] = status_msg
    client.call("PUT", f"/presence/{quote(client.user_id)}/status", body)


def status_of(client: Client, user: Client | str) -> Json:
    """Somebody's presence, as a client asks for it."""
    return dict(client.call("GET", f"/presence/{quote(id_of(user))}/status"))


def change_list(client: Client, **change: object) -> None:
    """Change one's presence list."""
    client.call("POST", f"/presence/list/{quote(client.user_id)}", change)


def list_of(client: Client) -> dict[str, Json]:
    """One's presence list, by user ID."""
    return {entry["user_id"]: entry for entry in client.call("GET", "/presence/list")}


def presence_in(events: Sequence[Json], user: Client | str) -> list[str]:
    """What some events say that somebody is, in their order."""
    mine = [event["content"] for event in events if event["type"] == "m.presence"]
    return [content["presence"] for content in mine if content["user_id"] == id_of(user)]


def requests_in(events: Sequence[Json]) -> list[str]:
    """Who asks to see one."""
    return [event["content"]["observer_user"] for event in events if event["type"] == "m.presence_invite"]


class Ears:
    """Somebody who follows the stream, and keeps all that it tells."""

    def __init__(self, client: Client, since: str | None = None) -> None:
        self.client = client
        self.since = client.present() if since is None else since
        self.heard: list[Json] = []

    def listen(self, timeout: int = 0) -> list[Json]:
        """Ask once; what is new."""
        page = self.client.events(self.since, timeout=timeout)
        self.since = page["end"]
        self.heard += page["chunk"]
        return list(page["chunk"])

    def until(self, wanted: Callable[[list[Json]], object], seconds: float = 20) -> list[Json]:
        """Follow until something is true of all that was heard."""
        deadline = time.monotonic() + seconds
        while not wanted(self.heard):
            assert time.monotonic() < deadline, f"only this was heard: {self.heard}"
            self.listen(timeout=500)
        return self.heard

    def until_it_is(self, user: Client | str, state: str, seconds: float = 20) -> list[str]:
        """Follow until somebody is something; all that they were on the way."""
        self.until(lambda heard: presence_in(heard, user)[-1:] == [state], seconds)
        return presence_in(self.heard, user)

    def for_a_while(self, seconds: float = 2.5) -> list[Json]:
        """Follow for some seconds, in which everything comes that is to come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.listen(timeout=300)
        return self.heard
