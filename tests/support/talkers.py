"""People who say one thing after another, and people who listen, whatever becomes of their servers meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException

from tests.support.client import ApiError, Client

#: How long somebody may take to come to an end, in seconds.
PATIENCE = 90
#: How long they wait before they try again, and between two things that they say, in seconds.
PAUSE, BREATH = 0.05, 0.01
#: How many of the events that somebody has heard count as what they answer.
LAST_WORDS = 10


class Busy(threading.Thread):
    """Somebody who does the same again and again, and tries again what the server was not able to do.

    :ivar failure: what should not have happened.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(name=client.user_id, daemon=True)
        self.client = client
        self.failure: BaseException | None = None
        self._is_over = threading.Event()

    def run(self) -> None:
        try:
            while not self._is_over.is_set():
                self.go_on()
        except BaseException as error:
            self.failure = error

    def go_on(self) -> None:
        """Do it once more."""
        raise NotImplementedError

    def insist(self, attempt: Callable[[], None]) -> None:
        """Try until it is done, unless it is refused for good."""
        while True:
            try:
                return attempt()
            except (OSError, HTTPException):
                time.sleep(PAUSE)
            except ApiError as error:
                if error.status < 500:
                    raise
                time.sleep(PAUSE)

    def end(self) -> None:
        """Stop, as soon as what is under way is done."""
        self._is_over.set()
        self.join(PATIENCE)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive(), f"{self.name} does not come to an end"


class Talker(Busy):
    """Somebody who says one thing after another, each again and again until it is acknowledged.

    :param rooms: where, by turns.
    :param ears: how this person follows the event stream meanwhile.
    :ivar said: the event IDs of what was acknowledged, by room and text.
    :ivar seen: the event IDs of what the person had heard last before that, by its event ID.
    :ivar longest: how long it took at the most until something was, in seconds.
    """

    #: How long they wait between two things that they say, in seconds.
    breath = BREATH

    def __init__(self, client: Client, *rooms: str, ears: Listener) -> None:
        super().__init__(client)
        self.said: dict[str, dict[str, str]] = {room: {} for room in rooms}
        self.seen: dict[str, list[str]] = {}
        self.longest = 0.0
        self._rooms = rooms
        self._ears = ears
        self._count = 0

    def go_on(self) -> None:
        room = self._rooms[self._count % len(self._rooms)]
        text = f"{self.client.user_id} {self._count}"
        content = {"msgtype": "m.text", "body": text}
        seen = self._ears.heard[-LAST_WORDS:]

        def say() -> None:
            event_id = self.client.send_event(room, "m.room.message", content, text)
            self.said[room][text], self.seen[event_id] = event_id, seen

        began = time.monotonic()
        self.insist(say)
        self.longest = max(self.longest, time.monotonic() - began)
        self._count += 1
        time.sleep(self.breath)


class Listener(Busy):
    """Somebody who follows the event stream.

    :ivar heard: the IDs of all events, as often and in the order as they came.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(client.another_connection())
        self.heard: list[str] = []
        self._since = client.present()

    def go_on(self) -> None:
        def listen() -> None:
            answer = self.client.events(self._since, timeout=1000)
            self.heard += [event["event_id"] for event in answer["chunk"] if "event_id" in event]
            self._since = answer["end"]

        self.insist(listen)


@contextmanager
def busy(people: Sequence[Busy]) -> Iterator[None]:
    """Let people do so meanwhile."""
    for person in people:
        person.start()
    yield
    for person in people:
        person.end()
