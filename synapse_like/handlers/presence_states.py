"""What one knows of a person's presence, and how it comes about (PRES-1, PRES-2).

A person of this server is there with any number of devices, each of which is an access token. A device is there while
it has an event stream open, and for a while after. What the person is, is what their most available device is; when
they were last active, is the latest that any of their devices tells. Of a person of another server, one knows what that
server says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from msgspec import Struct, field

from synapse_like.storage.presence import OFFLINE, StoredPresence

UNAVAILABLE = "unavailable"
ONLINE = "online"
FREE_FOR_CHAT = "free_for_chat"
HIDDEN = "hidden"

#: The states that others may see, the least available first.
AVAILABILITY = {OFFLINE: 0, UNAVAILABLE: 1, ONLINE: 2, FREE_FOR_CHAT: 3}

#: How much later a person must have been active for others to be told only because of that, in ms.
ACTIVITY_STEP_MS = 300_000
#: Characters of what persons say about themselves.
LONGEST_TEXT = 1000
#: Devices whose choices are remembered.
MOST_DEVICES = 20
#: In the place of the devices of those who were there when the server stopped.
NO_DEVICE = 0

Json = dict[str, Any]


class Device(Struct):
    """A device that is there.

    :ivar streams: how many event streams it has open.
    :ivar kind: what it says that it is, such as "mobile".
    :ivar is_idle: it has said for how long nobody touched it, so that nothing else tells that somebody did.
    """

    streams: int = 0
    kind: str | None = None
    is_idle: bool = False


class Told(NamedTuple):
    """What others see of a person.

    :ivar last_active: in ms.
    :ivar kind: of their devices, if all are of one, such as "mobile".
    :ivar profile: their `displayname` and `avatar_url`, as far as they were heard of.
    """

    state: str = OFFLINE
    status_msg: str | None = None
    kind: str | None = None
    last_active: int | None = None
    profile: tuple[tuple[str, str], ...] = ()

    def status(self, now_ms: int) -> Json:
        """The same as JSON."""
        shown: Json = {"presence": self.state}
        if self.status_msg:
            shown["status_msg"] = self.status_msg
        if self.last_active is not None:
            shown["last_active_ago"] = max(0, now_ms - self.last_active)
        if self.kind is not None:
            shown["device_type"] = self.kind
        return shown

    def event(self, user_id: str, now_ms: int) -> Json:
        """The same as an event of the stream."""
        content = {"user_id": user_id, **self.status(now_ms), **dict(self.profile)}
        return {"type": "m.presence", "content": content}

    def encoded(self, user_id: str) -> bytes:
        """The same as JSON, but for the time since they were active: what follows that."""
        content = {"user_id": user_id, **self._replace(last_active=None).status(0), **dict(self.profile)}
        return orjson.dumps({"content": content, "type": "m.presence"})[len(b'{"content":{') :]


UNKNOWN = Told()


def told_by(row: StoredPresence | None) -> Told:
    """What others see of a person, as the tables have it."""
    if row is None:
        return UNKNOWN
    return Told(row.state, None if row.is_hidden else row.status_msg, None, row.last_active)


class Person(Struct, eq=False):
    """What is known of one person.

    :ivar told: what others were told last.
    :ivar telling: what they are being told at the moment.
    :ivar encoded: some `told`, and its JSON, which is the same for everybody who is told.
    :ivar position: where in the stream of presence that was.
    :ivar own_position: where in the stream they themselves last chose something.
    :ivar has_chosen: they have, and it is not written down yet.
    :ivar rooms: those they are joined to, by their IDs.
    :ivar observers: who may see them by a list.
    :ivar devices: those that are there, by token_id; for persons of this server.
    :ivar choices: what the devices chose, also those that are not there at the moment.
    :ivar is_loaded: whether the tables were read.
    :ivar has_moved: they came into a room or went, or somebody was let see them or no longer, while they were.
    :ivar is_half_told: what `told` says of `kind` and `profile` is not known: the tables do not have it.
    :ivar is_renamed: others are to be told of `profile`, whether it is known what they were told before or not.
    :ivar is_heard: their own server has said something of them in this run.
    :ivar is_looking: it was announced that they look (`LookersChanged`).
    """

    user_id: str
    is_ours: bool
    state: str = OFFLINE
    status_msg: str | None = None
    kind: str | None = None
    last_active: int | None = None
    profile: tuple[tuple[str, str], ...] = ()
    told: Told = UNKNOWN
    telling: Told = UNKNOWN
    encoded: tuple[Told, bytes] | None = None
    position: int = 0
    own_position: int = 0
    has_chosen: bool = False
    rooms: set[str] = field(default_factory=set)
    observers: set[str] = field(default_factory=set)
    devices: dict[int, Device] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    is_hidden: bool = False
    is_loaded: bool = False
    has_moved: bool = False
    is_half_told: bool = False
    is_renamed: bool = False
    is_looking: bool = False
    is_heard: bool = False

    def adopt(self, row: StoredPresence | None) -> None:
        """Take over what the tables say; what is newer stays."""
        self.is_loaded = True
        if row is None:
            return
        self.position = row.position
        self.told = told_by(row)
        self.is_half_told = True
        self.last_active = max(self.last_active or 0, row.last_active or 0) or None
        if self.is_ours and not self.has_chosen:
            self.status_msg, self.is_hidden = row.status_msg, row.is_hidden
        self.choices = {**row.choices, **self.choices}

    def choose(self, token_id: int, state: str, status_msg: str | None) -> None:
        """A device of theirs says what they want to be."""
        self.has_chosen = True
        self.status_msg = status_msg
        self.is_hidden = state == HIDDEN
        self.choices.pop(str(token_id), None)
        # Also what is usual is kept, so that it is not taken for what an older choice said.
        self.choices[str(token_id)] = OFFLINE if state == HIDDEN else state
        while len(self.choices) > MOST_DEVICES:
            del self.choices[next(iter(self.choices))]

    def leave(self, token_id: int) -> None:
        """A device of theirs is gone. Having said that it goes, it did not say how it wants to come back."""
        self.devices.pop(token_id, None)
        if token_id == NO_DEVICE or self.choices.get(str(token_id)) == OFFLINE:
            self.choices.pop(str(token_id), None)

    def settle(self, now_ms: int) -> None:
        """See what their devices make of them: what the most available of them is. More than before is an activity."""
        self._complete_told()
        if not self.is_ours:
            return
        states = [self.choices.get(str(token_id), ONLINE) for token_id in self.devices]
        now = OFFLINE if self.is_hidden else max(states, key=AVAILABILITY.__getitem__, default=OFFLINE)
        before, self.state = self.told.state, now
        kinds = {device.kind for device in self.devices.values()}
        self.kind = kinds.pop() if len(kinds) == 1 and now != OFFLINE else None
        if AVAILABILITY[now] > AVAILABILITY[before] and not any(device.is_idle for device in self.devices.values()):
            self.was_active(now_ms)

    def _complete_told(self) -> None:
        """After a restart, take it that others know what the tables do not say: they are not told the same again."""
        if not self.is_half_told or not (self.is_ours or self.is_heard):
            return
        self.is_half_told = False
        if not self.is_renamed:
            self.told = self.told._replace(profile=self.profile)
        if not self.is_ours:
            self.told = self.told._replace(kind=self.kind)

    def hear(self, said: Mapping[str, Any], now_ms: int) -> None:
        """Take over what another server says of them beside their state."""
        self.is_heard = True
        message, kind, ago = said.get("status_msg"), said.get("device_type"), said.get("last_active_ago")
        # PostgreSQL stores no NUL.
        self.status_msg = message.replace("\0", "")[:LONGEST_TEXT] if isinstance(message, str) else None
        self.kind = kind[:LONGEST_TEXT] if isinstance(kind, str) else None
        if isinstance(ago, int) and ago >= 0:
            self.last_active = max(0, now_ms - ago)
        profile = [(key, said[key]) for key in ("displayname", "avatar_url") if isinstance(said.get(key), str)]
        self.profile = tuple((key, value[:LONGEST_TEXT]) for key, value in profile)

    def was_active(self, when_ms: int) -> None:
        """They did something at some time. Of who is hidden, one does not see that."""
        if not self.is_hidden:
            self.last_active = max(self.last_active or 0, when_ms)

    def now(self) -> Told:
        """What others are to see of them."""
        status_msg = None if self.is_hidden else self.status_msg
        return Told(self.state, status_msg, self.kind, self.last_active, self.profile)

    @property
    def is_there(self) -> bool:
        """Whether they are there, be it with a process that keeps presence for this one."""
        return bool(self.devices) or self.told.state != OFFLINE

    @property
    def has_news(self) -> bool:
        """Whether others are to be told."""
        now = self.now()
        if self.is_renamed:
            return True
        if now._replace(last_active=None) != self.told._replace(last_active=None):
            return True
        return now.state != OFFLINE and self.was_silent

    @property
    def was_silent(self) -> bool:
        """Whether they are active after others were told long ago that they were."""
        return (self.last_active or 0) - (self.told.last_active or 0) >= ACTIVITY_STEP_MS

    def row(self) -> StoredPresence:
        """What the tables are to say."""
        choices = {token_id: state for token_id, state in self.choices.items() if token_id != str(NO_DEVICE)}
        return StoredPresence(
            self.user_id, self.position, self.state, self.status_msg, self.last_active, self.is_hidden, choices
        )

    def event(self, now_ms: int) -> orjson.Fragment:
        """What others were told, as an event of the stream; encoded once for all of them."""
        if self.encoded is None or self.encoded[0] is not self.told:
            self.encoded = self.told, self.told.encoded(self.user_id)
        last_active = self.told.last_active
        ago = b"" if last_active is None else b'"last_active_ago":%d,' % max(0, now_ms - last_active)
        return orjson.Fragment(b'{"content":{%s%s' % (ago, self.encoded[1]))

    def own_status(self, now_ms: int) -> Json:
        """Their presence as they see it themselves: also that they are hidden."""
        now = self.now()._replace(status_msg=self.status_msg)
        return (now._replace(state=HIDDEN) if self.is_hidden else now).status(now_ms)
