"""The chat pages of the demo: people on two servers talk, whatever becomes of a page, a server or a line.

What is said in these tests is said once, and none of it is a part of something else that is said. What a page and the
servers do here lies above storage, so that all this runs on SQLite alone, as the demo does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.support.chat_page import PATIENCE, ChatPage
from tests.support.demo import PASSWORD, Demo

pytestmark = pytest.mark.timeout(300)

#: Milliseconds until those have found each other again who try again less and less often.
LONG_PATIENCE = 3 * PATIENCE


@pytest.fixture(scope="module")
def made_demo(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo behind `demo`, for all tests; without a browser it is not begun."""
    demo = Demo(tmp_path_factory.mktemp("demo") / "data")
    yield demo
    demo.close()


@pytest.fixture
def demo(made_demo: Demo) -> Iterator[Demo]:
    """The demo, all of whose servers run. None of them may fail within."""
    made_demo.script("start.sh")
    yield made_demo
    for server in made_demo.servers:
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def alice(chromium: Browser, demo: Demo) -> Iterator[ChatPage]:
    """Alice at the page of her server, in the room that is ready."""
    yield from in_the_kitchen(chromium, demo, "alice", 0)


@pytest.fixture
def bob(chromium: Browser, demo: Demo) -> Iterator[ChatPage]:
    """Bob at that of his."""
    yield from in_the_kitchen(chromium, demo, "bob", 1)


def in_the_kitchen(chromium: Browser, demo: Demo, name: str, number: int) -> Iterator[ChatPage]:
    context = chromium.new_context()
    person = ChatPage(context, demo.servers[number].url).log_in(name, PASSWORD)
    person.open_room("Kitchen")
    yield person
    assert person.problems == []
    context.close()


def talk(*said: tuple[ChatPage, str], listeners: tuple[ChatPage, ...]) -> list[str]:
    """Let people say something, each after all have read what was said before; the words."""
    for speaker, words in said:
        speaker.say(words)
        for person in listeners:
            person.wait_for_message(words)
    return [words for _, words in said]


def shown(person: ChatPage, words: Iterable[str]) -> list[str]:
    """Those words as they stand on somebody's page: each as often as it does, in the order in which they do."""
    sought = set(words)
    return [text for text in person.texts() if text in sought]


def lose_the_next_answer(person: ChatPage) -> None:
    """Let the server take what somebody says next, and the page not be told so."""

    def lose(route: Route) -> None:
        assert route.fetch().ok
        route.abort()

    person.page.route("**/send/m.room.message/*", lose, times=1)


def wait_until_lost(person: ChatPage) -> None:
    """Until a page says that it has lost its server."""
    person.wait_for("#connection", "The server cannot be reached")


def wait_until_found_again(person: ChatPage) -> None:
    """Until a page has its server again."""
    expect(person.find("#connection")).to_have_attribute("data-state", "online", timeout=LONG_PATIENCE)


def expect_waiting(person: ChatPage, words: Sequence[str]) -> None:
    """Words stand on a page, last and in their order, and are not said to be sent."""
    waiting = person.find("#messages .echo .body")
    expect(waiting).to_have_text(list(words), timeout=PATIENCE)


def read_everywhere(people: Sequence[ChatPage], words: Iterable[str]) -> None:
    """Words are, or come, on everybody's page, each once; and nothing waits any more."""
    for person in people:
        for text in words:
            expect(person.message(text)).to_have_count(1, timeout=LONG_PATIENCE)
        expect(person.find("#messages .echo")).to_have_count(0, timeout=PATIENCE)


def test_two_people_on_two_servers_talk_and_one_loads_the_page_again(alice: ChatPage, bob: ChatPage) -> None:
    """FED-3, EVS-1: what one says the other reads, once and in the order of the conversation; also after a reload."""
    people = (alice, bob)
    said = talk((alice, "Which cups?"), (bob, "The blue ones."), (alice, "There are two."), listeners=people)
    bob.page.reload()
    alice.say("And one is chipped.")
    bob.wait_until_in()
    bob.wait_for("#room-name", "Kitchen")
    read_everywhere(people, said)
    said.append("And one is chipped.")
    read_everywhere(people, said)
    said += talk((bob, "I take that one."), (alice, "Thank you!"), listeners=people)
    for person in people:
        assert shown(person, said) == said
        assert person.message("The blue ones.").get_attribute("data-sender").startswith("@bob:")


def test_server_is_killed_while_both_write(demo: Demo, alice: ChatPage, bob: ChatPage) -> None:
    """FED-3, API-4: what waits is shown and arrives; nothing is lost, nothing is there twice, and all in good order.

    What one says without having heard the other stands in the order in which each server got it. So it is the words of
    each that have an order here; and those of both, as soon as they hear each other.
    """
    people = (alice, bob)
    before = talk((alice, "Milk?"), (bob, "A drop."), listeners=people)

    # This the server takes, but the page does not know, and will say it again.
    lose_the_next_answer(bob)
    before += talk((bob, "And sugar?"), listeners=people)
    demo.servers[1].kill9()
    bob.say("Hello?")
    wait_until_lost(bob)
    bob.say("Is anybody there?")
    from_bob = ["Hello?", "Is anybody there?"]
    expect_waiting(bob, from_bob)
    from_alice = talk((alice, "Bob?"), (alice, "He is gone."), listeners=(alice,))
    assert bob.message("He is gone.").count() == 0

    demo.script("start.sh", "2")
    wait_until_found_again(bob)
    read_everywhere(people, [*before, *from_bob, *from_alice])
    after = talk((bob, "Here I am."), (alice, "Two lumps, then."), (bob, "Perfect."), listeners=people)
    for person in people:
        assert shown(person, [*before, *from_bob, *after]) == [*before, *from_bob, *after]
        assert shown(person, [*before, *from_alice, *after]) == [*before, *from_alice, *after]

    # And as the servers tell it to whoever comes only now.
    for person in people:
        person.page.reload()
        person.wait_until_in()
        read_everywhere([person], [*before, *from_bob, *from_alice, *after])
        assert shown(person, [*before, *from_bob, *after]) == [*before, *from_bob, *after]
        assert shown(person, [*before, *from_alice, *after]) == [*before, *from_alice, *after]


def test_browser_is_offline_for_a_while(alice: ChatPage, bob: ChatPage) -> None:
    """API-4, EVS-1: what was written meanwhile arrives, and what was said meanwhile is read, each once."""
    people = (alice, bob)
    before = talk((alice, "Off to the cellar?"), (bob, "A minute."), listeners=people)
    bob.context.set_offline(True)
    from_alice = talk((alice, "Bring jam."), (alice, "The red one."), listeners=(alice,))
    bob.say("There is no light.")
    bob.say("I hear nothing.")
    from_bob = ["There is no light.", "I hear nothing."]
    expect_waiting(bob, from_bob)
    wait_until_lost(bob)
    assert bob.message("Bring jam.").count() == 0

    bob.context.set_offline(False)
    wait_until_found_again(bob)
    read_everywhere(people, [*before, *from_alice, *from_bob])
    after = talk((bob, "Here is the jam."), (alice, "That is the green one."), listeners=people)
    for person in people:
        assert shown(person, [*before, *from_bob, *after]) == [*before, *from_bob, *after]
        assert shown(person, [*before, *from_alice, *after]) == [*before, *from_alice, *after]
