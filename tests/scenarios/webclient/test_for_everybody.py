"""The chat page for all people, screens and keyboards; and against what hostile people write."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.scenarios.conftest import Unique
from tests.scenarios.webclient.conftest import Visit
from tests.scenarios.webclient.test_talking import Person, picture
from tests.support.chat_page import PATIENCE
from tests.support.client import PASSWORD, PREFIX
from tests.support.content import upload
from tests.support.server import HomeServer

#: A browser takes its time on a machine that has others to serve.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("screen", [{"width": 1280}, {"width": 360, "dark": True}], ids=["wide", "narrow-and-dark"])
def test_everybody_can_use_every_view(
    visit: Visit, person: Person, screen: dict[str, int], tmp_path: Path, unique: Unique
) -> None:
    """LOGIN-9, ROOM-1: nothing keeps anybody from it, and nothing is wider than the screen."""
    bob = person("bob")
    page = visit(**screen)

    def look(view: str) -> None:
        assert page.faults() == [], view

    def look_at(button: str, dialog: str) -> None:
        page.find(button).click()
        page.wait_for(f"#{dialog}")
        look(dialog)
        page.page.keyboard.press("Escape")
        expect(page.find(f"#{dialog}")).to_be_hidden()

    is_narrow = screen["width"] < 700
    look("login")
    page.find("#login-user").fill("nobody")
    page.find("#login-password").fill("nothing")
    page.find("#login-form button[type=submit]").click()
    page.wait_for("#login-fault")
    look("login with a fault")
    page.find("#switch-form").click()
    page.wait_for("#other-way")
    look("register")
    page.find("#switch-form").click()
    page.register(unique("zoe"))
    look("no rooms")
    invited = bob.create_room(name="Elsewhere", visibility="public")
    bob.invite(invited, page.page.evaluate("JSON.parse(localStorage.getItem('synapse_like.session')).user_id"))
    for button, dialog in (("#create-button", "create-dialog"), ("#help-button", "help-dialog"), ("#me", "me-dialog")):
        look_at(button, dialog)
    page.find("#find-button").click()
    page.wait_for("#public-rooms", "Elsewhere")
    look("find-dialog")
    page.page.keyboard.press("Escape")
    page.invitation("bob").click()
    page.wait_for("#invitation")
    look("invitation")
    if is_narrow:
        page.page.go_back()
    room = page.create_room("A rather long name for a room that has to fit anywhere", topic="Everything " * 20)
    page.invite(bob.user_id)
    bob.join(room)
    page.say("Hello")
    page.say("/me waves")
    page.say("wide" * 100 + " https://example.org/" + "long/" * 40)
    page.send_file(picture(tmp_path))
    bob.send(room, "Good morning")
    mxc = upload(bob, b"some text", "text/plain")
    bob.send_event(room, "m.room.message", {"msgtype": "m.file", "body": "notes.txt", "url": mxc})
    bob.send_event(room, "m.room.message", {"msgtype": "m.notice", "body": "beep"})
    bob.redact(room, bob.send(room, "Oh no"))
    for text in ("waves", "Good morning", "notes.txt", "beep"):
        page.wait_for_message(text)
    page.wait_for("#messages .redacted")
    expect(page.find(".message[data-event] .picture")).to_have_count(1, timeout=PATIENCE)
    look("conversation")
    for button, dialog in (
        ("#invite-button", "invite-dialog"),
        ("#room-button", "room-dialog"),
        (".message[data-event] .picture", "picture-dialog"),
    ):
        look_at(button, dialog)
    page.message("Hello").hover()
    look_at("#messages .message:hover .act", "confirm-dialog")
    page.find("#people-button").click()
    page.wait_for("#people-lists", "(you)")
    look("people")
    look_at(f'.person-entry[data-user="{bob.user_id}"]', "person-dialog")


def test_narrow_screen_shows_one_pane_at_a_time(visit: Visit, person: Person) -> None:
    """ROOM-1: and the way back leads from one to the other."""
    alice = person("alice")
    alice.create_room(name="Pocket")
    page = visit(alice, width=390, height=740)
    panes = {"rooms": page.find("#rooms"), "room": page.find("#room"), "people": page.find("#people")}

    def only(name: str) -> None:
        for other, pane in panes.items():
            expect(pane).to_be_visible() if other == name else expect(pane).to_be_hidden()

    only("rooms")
    page.open_room("Pocket")
    only("room")
    page.find("#people-button").click()
    only("people")
    page.find("#people-close").click()
    only("room")
    page.page.go_back()
    only("rooms")
    page.page.go_forward()
    only("room")
    page.find("#back").click()
    only("rooms")


def test_keyboard_alone_is_enough(visit: Visit, home: HomeServer, person: Person, unique: Unique) -> None:
    """LOGIN-3, ROOM-1, RED-1: from the account to a deleted message."""
    name = unique("keys")
    page = visit()
    keyboard = page.page.keyboard

    def walk_to(selector: str) -> None:
        """Press Tab until something has the focus."""
        for _ in range(40):
            if page.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not lead to {selector}")

    page.wait_for_focus("#login-user")
    walk_to("#switch-form")
    keyboard.press("Enter")
    page.wait_for_focus("#register-user")
    for text in (name, PASSWORD, PASSWORD):
        keyboard.type(text)
        keyboard.press("Tab")
    keyboard.press("Enter")
    page.wait_until_in()
    for room in ("First", "Second"):
        walk_to("#create-button")
        keyboard.press("Enter")
        page.wait_for_focus("#create-name")
        keyboard.type(room)
        keyboard.press("Enter")
        page.wait_for("#room-name", room)
        page.wait_for_focus("#composer-text")
    keyboard.type("one")
    keyboard.press("Enter")
    page.wait_for_message("one")
    keyboard.type("two")
    keyboard.press("Shift+Enter")
    keyboard.type("lines")
    keyboard.press("Enter")
    page.wait_for_message("lines")
    assert page.texts() == ["one", "two\nlines"]

    keyboard.press("ArrowUp")
    keyboard.press("ArrowUp")
    page.wait_for_focus("#messages .message:has-text('one')")
    keyboard.press("Delete")
    page.wait_for("#confirm-dialog", "“one”")
    walk_to("#confirm-yes")
    keyboard.press("Enter")
    expect(page.find("#messages .redacted")).to_have_count(1, timeout=PATIENCE)
    expect(page.find("#confirm-dialog")).to_be_hidden(timeout=PATIENCE)
    keyboard.press("Escape")
    page.wait_for_focus("#composer-text")

    keyboard.press("Alt+ArrowDown")
    page.wait_for("#room-name", "First")
    keyboard.press("Alt+ArrowUp")
    page.wait_for("#room-name", "Second")
    keyboard.press("Control+k")
    page.wait_for_focus("#room-filter")
    keyboard.type("fir")
    keyboard.press("Enter")
    page.wait_for("#room-name", "First")
    walk_to("#help-button")
    keyboard.press("?")
    page.wait_for("#help-dialog", "The room above")
    keyboard.press("Escape")
    page.wait_for_focus("#help-button")
    assert home.is_running


#: What would run, or become markup, on a page that is careless.
HOSTILE = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "\"><svg onload='window.ran = 1'>",
    "'\" autofocus onfocus='window.ran = 1' x='",
    "javascript:window.ran=1//https://example.org",
    "</title></textarea></script><script>window.ran = 1</script>",
    "{{constructor.constructor('window.ran = 1')()}} ${window.ran = 1}",
    "https://example.org/\"onmouseover='window.ran=1' <b>bold</b>",
    "[x](javascript:window.ran=1) &lt;b&gt; &#60;script&#62;",
    "https://[javascript:window.ran=1]/ http://a\u202eb.example/",
]
#: Addresses of pictures, files and avatars.
ADDRESSES = [
    "javascript:window.ran=1",
    "data:text/html,<script>parent.ran=1</script>",
    "https://example.org/spy.png",
    "//example.org/spy.png",
    "mxc://../../../etc/passwd",
    "mxc://x/\" onerror='window.ran=1",
]


def test_nothing_that_people_write_does_anything(visit: Visit, person: Person) -> None:
    """EVT-3, SEC-7: names, topics, messages, file names, addresses; all is shown as it was written."""
    alice, mallory = person("alice"), person("mallory")
    room = mallory.create_room(name=HOSTILE[0], topic=HOSTILE[1], visibility="public")
    mallory.tell("displayname", HOSTILE[1])
    alice.join(room)
    for text in HOSTILE:
        mallory.send(room, text)
        mallory.send_event(room, "m.room.message", {"msgtype": "m.emote", "body": text})
        mallory.send_event(room, "m.room.message", {"msgtype": text, "body": text, "format": text})
    for address in ADDRESSES:
        mallory.tell("avatar_url", address)
        for kind in ("m.image", "m.video", "m.audio", "m.file"):
            content = {"msgtype": kind, "body": HOSTILE[1], "url": address, "info": {"mimetype": "text/html"}}
            mallory.send_event(room, "m.room.message", content)
    mallory.send_event(room, "m.room.message", {"msgtype": "m.image", "body": {"x": 1}, "url": "mxc://x/y"})
    mallory.send_event(room, "m.room.message", {"msgtype": "m.made.up"})
    mallory.set_state(room, "m.room.topic", {"topic": HOSTILE[5]})
    mallory.call("PUT", f"/presence/{mallory.user_id}/status", {"presence": "online", "status_msg": HOSTILE[2]})
    page = visit(alice)
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    page.entry(HOSTILE[0]).click()
    page.wait_for("#room-topic", HOSTILE[5])
    expect(page.find("#room-name")).to_have_text(HOSTILE[0])
    while page.find("#history").inner_text() != "This is where the room begins.":
        page.find("#timeline").evaluate("e => { e.scrollTop = 0 }")
    shown = page.texts()
    for text in HOSTILE:
        assert text in shown
        assert f"* {HOSTILE[1]} {text}" in shown
    page.find("#find-button").click()
    page.wait_for("#public-rooms", HOSTILE[0])
    page.page.keyboard.press("Escape")
    page.open_person(mallory.user_id)
    expect(page.find("#person-name")).to_have_text(HOSTILE[1])
    page.page.keyboard.press("Escape")
    mallory.call("POST", f"/rooms/{room}/ban", {"user_id": alice.user_id, "reason": HOSTILE[1]})
    page.wait_for("#notices", HOSTILE[1])
    assert page.page.evaluate("window.ran") is None
    assert not any("example.org" in url or "spy" in url for url in asked)


#: Content that the rules of a room allow, and no client of ours would send.
ODD = [
    {"msgtype": "m.text"},
    {"msgtype": "m.text", "body": 5},
    {"msgtype": "m.emote", "body": None},
    {"msgtype": "m.image", "body": ["x"], "url": 7, "info": None},
    {"msgtype": "m.image", "url": "mxc://x/y", "info": {"w": "wide", "h": -1e300, "size": "big"}},
    {"msgtype": "m.file", "url": {"x": 1}, "info": []},
    {"msgtype": {"a": 1}, "body": {"b": 2}},
    {},
]
ODD_STATE = {
    "m.room.name": {"name": ["a list"]},
    "m.room.topic": {"topic": {"an": "object"}},
    "m.room.aliases": {"aliases": 5},
    "m.room.member": {"membership": "join", "displayname": 5, "avatar_url": []},
    "m.room.unknown": {},
}


def test_what_other_servers_let_through_breaks_nothing(visit: Visit, person: Person) -> None:
    """SEC-3: odd contents, and times at which nothing can have happened."""
    alice = person("alice")
    room = alice.create_room(name="Odd")
    page = visit()

    def with_odd_events(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        events = told["rooms"][0]["messages"]["chunk"]
        usual = {"room_id": room, "user_id": "@x:odd.example", "origin_server_ts": 1}
        for number, content in enumerate(ODD):
            events.append({**usual, "event_id": f"$m{number}", "type": "m.room.message", "content": content})
        for number, (kind, content) in enumerate(ODD_STATE.items()):
            key = usual["user_id"] if kind == "m.room.member" else ""
            state = {**usual, "event_id": f"$s{number}", "type": kind, "content": content, "state_key": key}
            events.append(state)
            told["rooms"][0]["state"].append(state)
        for number, ts in enumerate((-1, 0, 2**53 - 1, 8_640_000_000_000_001)):
            said = {"msgtype": "m.text", "body": f"at {ts}"}
            event = {**usual, "event_id": f"$t{number}", "type": "m.room.message", "content": said}
            events.append({**event, "origin_server_ts": ts})
        route.fulfill(response=answer, json=told)

    page.page.route(f"**{PREFIX}/initialSync?**", with_odd_events)
    page.take_session(alice.user_id, alice.token)
    page.entry("at 8640000000000001").click()
    page.wait_for_message(f"at {2**53 - 1}")
    assert page.find("#messages .message").count() == len(ODD) + 4
    page.open_person("@x:odd.example")
    page.page.keyboard.press("Escape")
    page.say("All is well")
    page.wait_for_message("All is well")


def test_only_plain_web_addresses_become_links(visit: Visit, person: Person) -> None:
    """EVT-3."""
    alice = person("alice")
    room = alice.create_room(name="Links")
    for text in (
        "(see https://example.org/a_(b)), http://example.org:8080/?q=1&r=2#x!",
        "ftp://example.org file:///etc/passwd javascript:alert(1) mailto:a@example.org www.example.org",
        "https:// http://",
    ):
        alice.send(room, text)
    page = visit(alice)
    page.open_room("Links")
    page.wait_for_message("ftp:")
    links = page.find("#messages a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://example.org/a_(b)",
        "http://example.org:8080/?q=1&r=2#x",
    ]
    assert {link.get_attribute("rel") for link in links.all()} == {"noopener noreferrer"}


def test_new_messages_are_read_out(visit: Visit, person: Person) -> None:
    """EVS-1: for those who listen to the page; what is loaded from before is not."""
    alice, bob = person("alice"), person("bob")
    page = visit(alice)
    room = page.create_room("Radio", invite=bob.user_id)
    bob.join(room)
    announcer = page.find("#announcer[aria-live=polite]")
    expect(announcer).to_be_empty()
    bob.send(room, "breaking news")
    expect(announcer).to_have_text(f"{bob.user_id[1:].partition(':')[0]}: breaking news", timeout=PATIENCE)
