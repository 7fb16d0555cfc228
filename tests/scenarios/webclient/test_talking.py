"""What people do in the chat page: meet, talk, send pictures, keep order, and come back after the server was away."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.scenarios.conftest import Unique
from tests.scenarios.webclient.conftest import Visit
from tests.support.chat_page import PATIENCE
from tests.support.client import PREFIX, Client, texts
from tests.support.pictures import drawing, encoded
from tests.support.processes import wait_until
from tests.support.server import HomeServer

#: A browser takes its time on a machine that has others to serve.
pytestmark = pytest.mark.timeout(300)

Person = Callable[[str], Client]


def picture(folder: Path, name: str = "sea.png") -> Path:
    """A picture on the disk."""
    path = folder / name
    path.write_bytes(encoded(drawing(1200, 800), "PNG"))
    return path


def test_two_people_meet_and_talk(visit: Visit, person: Person, home: HomeServer, unique: Unique) -> None:
    """ROOM-1, ROOM-5, ROOM-6, EVS-1, EVT-3, TYP-1, PRES-2: by an alias, in both directions, each message once."""
    alice, bob = person("alice"), person("bob")
    name, alias = unique("Tea"), unique("tea")
    one, two = visit(alice), visit(bob)
    room = one.create_room(name, alias=alias, topic="With milk", public=True)
    one.say("Is anybody there?")
    two.find("#find-button").click()
    two.find("#find-alias").fill(name)
    two.wait_for("#public-rooms", "1 person")
    two.page.keyboard.press("Escape")
    assert two.join(f"#{alias}:{home.name}") == room
    two.wait_for("#room-topic", "With milk")
    two.wait_for_message("Is anybody there?", alice.user_id)
    one.wait_for("#messages", f"{bob.user_id[1:].partition(':')[0]} joined.")
    two.find("#composer-text").press_sequentially("I ")
    one.wait_for("#typing", "is typing…")
    two.say("I am")
    one.wait_for_message("I am", bob.user_id)
    expect(one.find("#typing")).to_be_empty(timeout=PATIENCE)
    two.say("/me sits down")
    one.wait_for_message(re.compile(r"\* bob-\d+ sits down"), bob.user_id)
    one.say("See https://example.org/tea.")
    link = two.wait_for_message("See").locator("a")
    expect(link).to_have_attribute("href", "https://example.org/tea")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    one.find("#people-button").click()
    expect(one.find(f'.person-entry[data-user="{bob.user_id}"] .dot.online')).to_be_visible(timeout=PATIENCE)
    assert one.texts() == two.texts()
    assert alice.state_content(room, "m.room.topic") == {"topic": "With milk"}


def test_what_was_not_answered_is_sent_again_and_said_once(visit: Visit, person: Person) -> None:
    """API-4: the server had it, the answer got lost; the same transaction ID is used."""
    alice = person("alice")
    page = visit(alice)
    room = page.create_room("Echoes")
    lost: list[str] = []

    def lose_answers(route: Route) -> None:
        route.fetch()
        lost.append(route.request.url)
        route.abort()

    sending = f"**{PREFIX}/rooms/*/send/**"
    page.page.route(f"**{PREFIX}/events?**", lambda route: None)
    page.page.evaluate("dispatchEvent(new Event('offline'))")
    page.page.route(sending, lose_answers)
    page.say("Just once")
    failed = page.wait_for(".message.failed", "Not sent.")
    expect(failed).to_contain_text("Just once")
    page.page.unroute(sending)
    page.page.on("request", lambda request: lost.append(request.url) if "/send/" in request.url else None)
    failed.get_by_role("button", name="Try again").click()
    expect(page.find(".message.sent")).to_contain_text("Just once", timeout=PATIENCE)
    assert len(lost) == 2
    assert lost[0] == lost[1]
    page.page.unroute(f"**{PREFIX}/events?**")
    page.page.reload()
    page.wait_until_in().wait_for_message("Just once")
    assert texts(alice.history(room)).count("Just once") == 1


def test_stream_that_tells_before_the_answer_shows_nothing_twice(visit: Visit, person: Person) -> None:
    """API-4: and an answer that gets lost then is asked for again."""
    alice = person("alice")
    page = visit(alice)
    room = page.create_room("Echoes")
    held: list[Route] = []

    def hold_first_answer(route: Route) -> None:
        if held:
            route.continue_()
            return
        held.append(route)
        route.fetch()

    page.page.route(f"**{PREFIX}/rooms/*/send/**", hold_first_answer)
    page.say("Just once")
    page.wait_for_message("Just once")
    assert held
    assert page.texts() == ["Just once"]
    with page.page.expect_response(held[0].request.url, timeout=PATIENCE):
        held[0].abort()
    page.say("and another")
    page.wait_for_message("and another")
    assert page.texts() == ["Just once", "and another"]
    assert [text for text in texts(alice.history(room)) if text] == ["Just once", "and another"]


def test_what_the_server_refuses_is_told_and_can_be_discarded(visit: Visit, person: Person) -> None:
    """EVT-1."""
    page = visit(person("alice"))
    page.create_room("Limits")
    page.say("x" * 70_000)
    failed = page.wait_for(".message.failed", "Not sent.")
    failed.get_by_role("button", name="Discard").click()
    expect(page.find(".message.failed")).to_have_count(0)
    page.say("short")
    page.wait_for_message("short")


def test_page_comes_back_when_the_server_does(visit: Visit, person: Person, home: HomeServer) -> None:
    """EVS-1: nothing is lost, nothing comes twice, and what could not be sent goes out by itself."""
    alice, bob = person("alice"), person("bob")
    page = visit(alice)
    room = page.create_room("Weather", invite=bob.user_id)
    bob.join(room)
    bob.send(room, "before")
    page.wait_for_message("before")
    home.kill9()
    page.wait_for("#connection", "cannot be reached")
    page.say("while it is away")
    page.wait_for(".message.failed")
    home.start()
    bobs = Client(home, token=bob.token, user_id=bob.user_id)
    bobs.send_event(room, "m.room.message", {"msgtype": "m.text", "body": "after"}, txn="after")
    page.page.evaluate("dispatchEvent(new Event('online'))")
    page.wait_until_in()
    page.wait_for_message("while it is away")
    page.wait_for_message("after")
    expect(page.find(".message.failed")).to_have_count(0)
    assert sorted(page.texts()) == ["after", "before", "while it is away"]


def test_token_that_the_server_does_not_know_begins_anew(visit: Visit, person: Person) -> None:
    """EVS-1, EVS-4."""
    alice, bob = person("alice"), person("bob")
    page = visit(alice)
    room = page.create_room("Anew", invite=bob.user_id)
    bob.join(room)
    refusals: list[str] = []

    def refuse_once(route: Route) -> None:
        if refusals:
            route.continue_()
            return
        refusals.append(route.request.url)
        bob.send(room, "in between")
        route.fulfill(status=400, json={"errcode": "M_BAD_PAGINATION", "error": "No such token."})

    page.page.route(f"**{PREFIX}/events?**", refuse_once)
    bob.send(room, "first")
    page.wait_for_message("in between")
    assert refusals
    bob.send(room, "afterwards")
    page.wait_for_message("afterwards")
    assert page.texts() == ["first", "in between", "afterwards"]


def test_long_absence_is_made_up_by_a_snapshot(visit: Visit, person: Person) -> None:
    """EVS-4: not by everything that was missed, one after the other."""
    alice = person("alice")
    room = alice.create_room(name="Sleep")
    page = visit()
    page.page.clock.install()
    snapshots: list[str] = []
    page.page.on("request", lambda request: snapshots.append(request.url) if "/initialSync" in request.url else None)
    page.take_session(alice.user_id, alice.token)
    page.open_room("Sleep")
    assert len(snapshots) == 1
    # As when a lid is closed and opened: time has gone by, and what was waited for does not come.
    page.page.clock.fast_forward(11 * 60 * 1000)
    with page.page.expect_response(f"**{PREFIX}/initialSync?**", timeout=PATIENCE):
        page.page.evaluate("dispatchEvent(new Event('online'))")
    alice.send(room, "Good morning")
    page.wait_for_message("Good morning")
    assert len(snapshots) == 2


def test_history_is_paged_back_and_what_is_read_stays_where_it_is(visit: Visit, person: Person) -> None:
    """EVS-6: 200 messages, whole and in their order."""
    alice = person("alice")
    room = alice.create_room(name="Long")
    said = [f"message {number:03}" for number in range(200)]
    for text in said:
        alice.send(room, text)
    page = visit(alice)
    page.open_room("Long")
    page.wait_for_message("message 199")
    scroller = page.find("#timeline")
    loaded = len(page.texts())
    assert loaded < 200
    while loaded < 200:
        # From the first message that is loaded it goes on; that message stays where it is on the screen.
        first = page.texts()[0]
        moved = page.page.evaluate(MOVE_UP_AND_WATCH, first)
        assert abs(moved) < 2, f"{first} has moved by {moved} pixels"
        loaded = len(page.texts())
    page.wait_for("#history", "This is where the room begins.")
    assert page.texts() == said
    alice.send(room, "one more")
    page.wait_for("#to-newest").click()
    page.wait_for_message("one more")
    assert scroller.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 48


#: Scrolls to the top, waits for the page of history, and tells by how much a message has moved on the screen.
MOVE_UP_AND_WATCH = """
async text => {
  const scroller = document.getElementById("timeline"), list = document.getElementById("messages");
  const said = line => line.querySelector(".body").textContent === text;
  const place = () => [...list.querySelectorAll(".message")].find(said).getBoundingClientRect().top;
  const before = list.children.length;
  scroller.scrollTop = 0;
  const top = place();
  while (list.children.length === before) await new Promise(resolve => setTimeout(resolve, 20));
  return place() - top;
}
"""


def test_memory_is_bounded(visit: Visit, person: Person) -> None:
    """EVS-6: who pages far back loses the newest, and gets them back by a button."""
    alice = person("alice")
    room = alice.create_room(name="Bounds")
    for number in range(90):
        alice.send(room, f"message {number:03}")
    page = visit()

    def with_smaller_bound(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("MOST_EVENTS = 1000", "MOST_EVENTS = 40"))

    page.page.route("**/model/timeline.js", with_smaller_bound)
    page.take_session(alice.user_id, alice.token)
    page.open_room("Bounds")
    page.wait_for_message("message 089")

    def newest_are_let_go() -> bool:
        page.page.evaluate("document.getElementById('timeline').scrollTop = 0")
        return page.message("message 089").count() == 0

    wait_until("the newest to be let go", newest_are_let_go)
    alice.send(room, "newest")
    page.find("#timeline").evaluate("e => { e.scrollTop = e.scrollHeight }")
    page.wait_for("#not-live")
    assert page.message("newest").count() == 0
    page.find("#to-present").click()
    page.wait_for_message("newest")
    expect(page.find("#not-live")).to_be_hidden()


def test_deleted_message_is_gone_for_everybody(visit: Visit, person: Person) -> None:
    """RED-1, RED-2: of one's own; of others by who has the power, and by nobody else."""
    alice, bob = person("alice"), person("bob")
    one, two = visit(alice), visit(bob)
    room = one.create_room("Regrets", invite=bob.user_id)
    bob.join(room)
    two.open_room("Regrets")
    one.say("mine")
    bobs = bob.send(room, "yours")
    two.wait_for_message("mine").hover()
    assert two.message("mine").locator(".act").count() == 0
    for text in ("mine", "yours"):
        one.wait_for_message(text).hover()
        one.message(text).get_by_label("Delete this message").click()
        one.wait_for("#confirm-text", text)
        one.find("#confirm-yes").click()
        for page in (one, two):
            expect(page.message(text)).to_have_count(0, timeout=PATIENCE)
    expect(two.find(".message.redacted")).to_have_count(2)
    assert bob.event(bobs)["content"] == {}


def test_pictures_and_files_are_sent_and_seen(visit: Visit, person: Person, tmp_path: Path) -> None:
    """MEDIA-1, EVT-3: chosen, pasted and dropped; others see a smaller picture, and the whole one by a click."""
    alice, bob = person("alice"), person("bob")
    one, two = visit(alice), visit(bob)
    room = one.create_room("Gallery", invite=bob.user_id)
    bob.join(room)
    two.open_room("Gallery")
    one.send_file(picture(tmp_path))
    shown = two.wait_for(".message[data-event] .picture img")
    assert "/thumbnail/" in str(shown.get_attribute("src"))
    expect(shown).to_have_js_property("naturalWidth", 640, timeout=PATIENCE)
    shown.click()
    two.wait_for("#picture-dialog", "sea.png")
    expect(two.find("#picture")).to_have_js_property("naturalWidth", 1200, timeout=PATIENCE)
    two.page.keyboard.press("Escape")
    content = alice.history(room)[-1]["content"]
    assert content["msgtype"] == "m.image"
    assert {key: content["info"][key] for key in ("w", "h", "mimetype")} == {
        "w": 1200,
        "h": 800,
        "mimetype": "image/png",
    }
    for kind, place in (("paste", "#composer-text"), ("drop", "#timeline")):
        one.find(place).evaluate(GIVE_FILE, [kind, f"{kind}ed <b>.txt"])
        file = two.wait_for_message(f"{kind}ed <b>.txt").locator("a.file")
        assert "/download/" in str(file.get_attribute("href"))
    assert [event["content"]["msgtype"] for event in alice.history(room)[-2:]] == ["m.file", "m.file"]


#: Pastes or drops a file.
GIVE_FILE = """
(element, [kind, name]) => {
  const data = new DataTransfer();
  data.items.add(new File(["some text"], name, {type: "text/plain"}));
  const options = {bubbles: true, cancelable: true};
  element.dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", {...options, clipboardData: data})
                                         : new DragEvent("drop", {...options, dataTransfer: data}));
}
"""


def test_upload_shows_how_far_it_is_and_can_be_cancelled(visit: Visit, person: Person, tmp_path: Path) -> None:
    """MEDIA-1."""
    alice = person("alice")
    page = visit(alice)
    room = page.create_room("Slow")
    page.page.route("**/_matrix/media/v1/upload?**", lambda route: None)
    page.send_file(picture(tmp_path))
    expect(page.find(".message.uploading progress")).to_be_visible(timeout=PATIENCE)
    page.find(".message.uploading").get_by_role("button", name="Cancel").click()
    expect(page.find(".message.uploading")).to_have_count(0)
    page.page.unroute("**/_matrix/media/v1/upload?**")
    page.say("never mind")
    page.wait_for_message("never mind")
    assert [event["content"]["msgtype"] for event in alice.history(room) if event["type"] == "m.room.message"] == [
        "m.text"
    ]


def test_power_is_shown_and_used(visit: Visit, person: Person) -> None:
    """PERM-1, PERM-2, MEM-3, ROOM-7: kick, ban, unban and levels; nothing is offered to who may not."""
    alice, bob, carol = person("alice"), person("bob"), person("carol")
    one, two = visit(alice), visit(bob)
    room = one.create_room("Order", invite=f"{bob.user_id} {carol.user_id}")
    bob.join(room)
    carol.join(room)
    two.open_room("Order")
    two.open_person(carol.user_id)
    for action in ("kick", "ban", "unban", "power"):
        expect(two.find(f"#person-{action}")).to_be_hidden()
    two.page.keyboard.press("Escape")

    one.open_person(bob.user_id)
    one.find("#person-level").fill("50")
    one.find("#person-level-save").click()
    expect(one.find("#person-dialog")).to_be_hidden(timeout=PATIENCE)
    expect(two.find(f'.person-entry[data-user="{bob.user_id}"] .tag')).to_have_text("Moderator", timeout=PATIENCE)
    assert alice.state_content(room, "m.room.power_levels")[bob.user_id] == 50

    two.open_person(carol.user_id)
    two.find("#person-reason").fill("too loud")
    two.find("#person-kick").click()
    one.wait_for("#messages", "too loud")
    assert bob.members(room)[carol.user_id] == "leave"

    one.open_person(bob.user_id)
    one.find("#person-reason").fill("enough")
    one.find("#person-ban").click()
    two.wait_for("#notices", "has banned you from Order: enough")
    expect(two.find("#conversation")).to_be_hidden()
    expect(two.entry("Order")).to_have_count(0)
    one.wait_for("#people-lists", "Banned")
    one.open_person(bob.user_id)
    one.find("#person-unban").click()
    expect(one.find("#person-dialog")).to_be_hidden(timeout=PATIENCE)
    expect(one.find("#people-lists")).not_to_contain_text("Banned", timeout=PATIENCE)
    assert alice.members(room)[bob.user_id] == "leave"


def test_power_in_rooms_of_later_versions(visit: Visit, person: Person) -> None:
    """PERM-1: where all levels stand in one event, and where the creator stands above them."""
    alice, bob = person("alice"), person("bob")
    page = visit(alice)
    for version in ("6", "12"):
        room = alice.create_room(name=f"Version {version}", room_version=version, invite=[bob.user_id])
        bob.join(room)
        expect(page.entry(f"Version {version}")).to_be_visible(timeout=PATIENCE)
        page.open_room(f"Version {version}")
        page.open_person(bob.user_id)
        page.find("#person-level").fill("60")
        page.find("#person-level-save").click()
        expect(page.find("#person-dialog")).to_be_hidden(timeout=PATIENCE)
        expect(page.find(f'.person-entry[data-user="{bob.user_id}"] .tag')).to_have_text("Level 60", timeout=PATIENCE)
        assert alice.state_content(room, "m.room.power_levels")["users"][bob.user_id] == 60
        expect(page.find(f'.person-entry[data-user="{alice.user_id}"] .tag')).to_have_text(
            "Admin" if version == "6" else "Creator"
        )


def test_invitations_are_accepted_or_declined(visit: Visit, person: Person) -> None:
    """MEM-2, ROOM-7, ROOM-8; and who leaves is out."""
    alice, bob = person("alice"), person("bob")
    one, two = visit(alice), visit(bob)
    inviter = alice.user_id[1:].partition(":")[0]
    rooms = []
    for name in ("Yes", "No"):
        rooms.append(one.create_room(name))
        one.invite(bob.user_id)
        expect(two.invitation(inviter)).to_be_visible(timeout=PATIENCE)
        if name == "Yes":
            assert two.accept_invitation(inviter) == rooms[0]
            two.say("Here I am")
            one.wait_for_message("Here I am", bob.user_id)
        else:
            two.invitation(inviter).click()
            two.find("#invitation-reject").click()
            expect(two.invitation(inviter)).to_have_count(0, timeout=PATIENCE)
    assert [alice.members(room)[bob.user_id] for room in rooms] == ["join", "leave"]
    two.open_room("Yes")
    two.find("#room-button").click()
    two.find("#leave-button").click()
    two.find("#confirm-yes").click()
    two.wait_for("#no-rooms")
    assert alice.members(rooms[0])[bob.user_id] == "leave"


def test_unread_messages_are_marked_until_they_are_read(visit: Visit, person: Person) -> None:
    """EVS-1: the page keeps the marks, also while it is closed; who speaks has read what was before."""
    alice, bob = person("alice"), person("bob")
    page = visit(alice)
    quiet = page.create_room("Quiet", invite=bob.user_id)
    page.create_room("Other")
    bob.join(quiet)
    bob.send(quiet, "one")
    bob.send(quiet, "two")
    expect(page.entry("Quiet").locator(".badge")).to_have_text("2", timeout=PATIENCE)
    expect(page.page).to_have_title(re.compile(r"^\(2\) "), timeout=PATIENCE)
    first = page.find(".room-entry").first
    expect(first).to_contain_text("Quiet")
    page.page.goto("about:blank")
    alice.send(quiet, "my own, elsewhere")
    bob.send(quiet, "three")
    page.page.goto(f"{page.url}/")
    page.wait_until_in()
    expect(page.entry("Quiet").locator(".badge")).to_have_text("1", timeout=PATIENCE)
    page.open_room("Quiet")
    page.wait_for(".new-mark")
    expect(page.entry("Quiet").locator(".badge")).to_have_count(0)
    page.page.reload()
    page.wait_until_in()
    expect(page.find(".badge")).to_have_count(0)


def test_profile_is_set_and_seen(visit: Visit, person: Person, tmp_path: Path) -> None:
    """PROF-1, PROF-2, PRES-1."""
    alice, bob = person("alice"), person("bob")
    one, two = visit(alice), visit(bob)
    room = one.create_room("Faces", invite=bob.user_id)
    bob.join(room)
    two.open_room("Faces")
    one.say("before")
    one.find("#me").click()
    one.find("#me-name").fill("Alice Liddell")
    one.find("#me-presence").select_option("unavailable")
    one.find("#me-status").fill("down the hole")
    one.find("#me-file").set_input_files(picture(tmp_path, "me.png"))
    expect(one.find("#me-avatar img")).to_have_count(1, timeout=PATIENCE)
    one.find("#me-form button[type=submit]").click()
    expect(one.find("#me-dialog")).to_be_hidden(timeout=PATIENCE)
    one.wait_for("#me", "Alice Liddell")
    one.wait_for("#me", "down the hole")
    expect(two.find("#messages .sender").first).to_have_text("Alice Liddell", timeout=PATIENCE)
    two.find("#messages .face").first.click()
    dialog = two.wait_for("#person-dialog", "down the hole")
    expect(dialog).to_contain_text("away", timeout=PATIENCE)
    expect(dialog).to_contain_text(alice.user_id)
    expect(two.find("#person-avatar img")).to_have_js_property("naturalWidth", 96, timeout=PATIENCE)
    profile = bob.profile(alice)
    assert profile["displayname"] == "Alice Liddell"
    assert str(profile["avatar_url"]).startswith("mxc://")


def test_room_is_described_by_who_may(visit: Visit, person: Person) -> None:
    """PERM-3, EVT-2."""
    alice, bob = person("alice"), person("bob")
    one, two = visit(alice), visit(bob)
    room = one.create_room("Plain", invite=bob.user_id)
    bob.join(room)
    two.open_room("Plain")
    two.find("#room-button").click()
    expect(two.find("#about-save")).to_be_hidden()
    expect(two.find("#about-name")).not_to_be_editable()
    two.page.keyboard.press("Escape")
    one.find("#room-button").click()
    one.find("#about-name").fill("Fancy")
    one.find("#about-topic").fill("All about it")
    one.find("#about-save").click()
    two.wait_for("#room-name", "Fancy")
    two.wait_for("#room-topic", "All about it")
