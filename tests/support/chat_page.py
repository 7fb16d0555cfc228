"""The chat page, driven as a person does: what one sees is waited for, and what one means is clicked or typed.

`ChatPage` is one person at one page. Waiting is by conditions, with a patience that a slow machine needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import BrowserContext, ConsoleMessage, Error, Locator, Page, expect

from tests.support import browser as browsers
from tests.support.client import PASSWORD

#: Milliseconds until something that should have come has not.
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)


@dataclass
class ChatPage:
    """A person at the chat page of a server.

    :ivar url: of the server: `http://127.0.0.1:8008`.
    :ivar problems: what the browser has complained of: what the page's policy forbids, and errors in its scripts.
    """

    context: BrowserContext
    url: str
    page: Page = field(init=False)
    problems: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._heard)
        self.page.on("pageerror", self._failed)
        self.page.goto(f"{self.url}/")

    def _heard(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "Trusted" in message.text:
            self.problems.append(message.text)

    def _failed(self, error: Error) -> None:
        self.problems.append(str(error))

    # What is there.

    def find(self, selector: str) -> Locator:
        """An element of the page, by CSS."""
        return self.page.locator(selector)

    def wait_for(self, selector: str, text: str | None = None) -> Locator:
        """An element, as soon as it can be seen and has a text."""
        found = self.find(selector)
        expect(found).to_be_visible(timeout=PATIENCE)
        if text is not None:
            expect(found).to_contain_text(text, timeout=PATIENCE)
        return found

    def wait_for_focus(self, selector: str) -> None:
        """Until what is typed goes there."""
        expect(self.find(selector)).to_be_focused(timeout=PATIENCE)

    def faults(self) -> list[str]:
        """What keeps some people from using what is shown, and what is wider than the screen."""
        found = browsers.faults(self.page)
        if self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") > 0:
            found.append("it is wider than the screen")
        return found

    # Coming and going.

    def register(self, name: str, password: str = PASSWORD) -> ChatPage:
        """Make an account, and wait until its chat is there."""
        self.find("#switch-form").click()
        self.wait_for("#register-form")
        self.find("#register-user").fill(name)
        self.find("#register-password").fill(password)
        self.find("#register-repeated").fill(password)
        self.find("#register-form button[type=submit]").click()
        return self.wait_until_in()

    def log_in(self, name: str, password: str = PASSWORD) -> ChatPage:
        """Log in by the form, and wait until the chat is there."""
        self.wait_for("#login-form")
        self.find("#login-user").fill(name)
        self.find("#login-password").fill(password)
        self.find("#login-form button[type=submit]").click()
        return self.wait_until_in()

    def take_session(self, user_id: str, access_token: str) -> ChatPage:
        """Be logged in already, as the page is when it is opened again."""
        self.page.evaluate(
            "session => localStorage.setItem('synapse_like.session', JSON.stringify(session))",
            {"user_id": user_id, "access_token": access_token, "home_server": user_id.partition(":")[2]},
        )
        self.page.reload()
        return self.wait_until_in()

    def wait_until_in(self) -> ChatPage:
        """Until the rooms are there, and news come in."""
        expect(self.find("#connection")).to_have_attribute("data-state", "online", timeout=PATIENCE)
        return self

    def log_out(self) -> None:
        """Log out, and wait for the way in."""
        self.find("#me").click()
        self.find("#log-out").click()
        self.wait_for("#login-form")

    # Rooms.

    def create_room(
        self, name: str, *, alias: str = "", topic: str = "", invite: str = "", public: bool = False
    ) -> str:
        """Make a room, which is then open.

        :returns: its ID.
        """
        self.find("#create-button").click()
        self.wait_for_focus("#create-name")
        self.find("#create-name").fill(name)
        self.find("#create-topic").fill(topic)
        self.find("#create-alias").fill(alias)
        self.find("#create-invite").fill(invite)
        self.find("#create-public").set_checked(public)
        self.find("#create-form button[type=submit]").click()
        expect(self.find("#create-dialog")).to_be_hidden(timeout=PATIENCE)
        self.wait_for("#room-name", name)
        return self.room_id

    def join(self, alias: str) -> str:
        """Join a room by its alias, and wait until it is open.

        :returns: its ID.
        """
        self.find("#find-button").click()
        self.wait_for_focus("#find-alias")
        self.find("#find-alias").fill(alias)
        self.find("#find-form button[type=submit]").click()
        expect(self.find("#find-dialog")).to_be_hidden(timeout=PATIENCE)
        self.wait_for("#conversation")
        return self.room_id

    @property
    def room_id(self) -> str:
        """The ID of the room that is open."""
        found: str = self.page.evaluate("decodeURIComponent(location.hash.slice(1))")
        return found

    def entry(self, room: str) -> Locator:
        """A room in the list, by its name."""
        return self.find(".room-entry").filter(has_text=room)

    def open_room(self, room: str) -> None:
        """Open a room of the list, by its name."""
        self.entry(room).click()
        self.wait_for("#room-name", room)

    def invite(self, user_id: str) -> None:
        """Invite somebody to the room that is open."""
        self.find("#invite-button").click()
        self.wait_for_focus("#invite-user")
        self.find("#invite-user").fill(user_id)
        self.find("#invite-form button[type=submit]").click()
        expect(self.find("#invite-dialog")).to_be_hidden(timeout=PATIENCE)

    def invitation(self, inviter: str) -> Locator:
        """The invitation of somebody in the list of rooms, by the first part of their user ID."""
        return self.find(".room-entry.invitation").filter(has_text=inviter)

    def accept_invitation(self, inviter: str) -> str:
        """Open the invitation of somebody and accept it.

        :param inviter: the first part of their user ID.
        :returns: the ID of the room.
        """
        self.invitation(inviter).click()
        self.find("#invitation-accept").click()
        self.wait_for("#conversation")
        return self.room_id

    # Talking.

    def say(self, text: str) -> None:
        """Write a message and send it."""
        self.find("#composer-text").fill(text)
        self.find("#send").click()

    def send_file(self, path: Path) -> None:
        """Send a file from the disk."""
        self.find("#composer-file").set_input_files(path)

    def message(self, text: str | re.Pattern[str], sender: str | None = None) -> Locator:
        """A message of the open room that the server has, by a part of its text.

        :param sender: their user ID.
        """
        whose = "" if sender is None else f'[data-sender="{sender}"]'
        return self.find(f"#messages .message[data-event]{whose}").filter(has_text=text)

    def wait_for_message(self, text: str | re.Pattern[str], sender: str | None = None) -> Locator:
        """Wait for exactly one such message."""
        found = self.message(text, sender)
        expect(found).to_have_count(1, timeout=PATIENCE)
        expect(found).to_be_visible(timeout=PATIENCE)
        return found

    def texts(self) -> list[str]:
        """What the messages say that are loaded, oldest first."""
        return self.find("#messages .message .body").all_inner_texts()

    def open_person(self, user_id: str) -> None:
        """Open the dialog about somebody in the room."""
        if self.find("#people").is_hidden():
            self.find("#people-button").click()
        self.find(f'.person-entry[data-user="{user_id}"]').click()
        self.wait_for("#person-dialog")
