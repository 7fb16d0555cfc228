"""Registering, logging in and out by the chat page."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Request, Route, expect

from tests.scenarios.conftest import Unique
from tests.scenarios.webclient.conftest import SECRET_WORD, Visit
from tests.support.chat_page import ChatPage
from tests.support.client import PASSWORD, PREFIX, Client, refused
from tests.support.server import HomeServer

#: A browser takes its time on a machine that has others to serve.
pytestmark = pytest.mark.timeout(300)


def session_of(page: ChatPage) -> dict[str, str]:
    """Who the page remembers."""
    found = json.loads(page.page.evaluate("localStorage.getItem('synapse_like.session')"))
    assert isinstance(found, dict)
    return found


def test_registering_logging_out_and_logging_in(visit: Visit, home: HomeServer, unique: Unique) -> None:
    """LOGIN-3, LOGIN-10: the token is ended, not only forgotten."""
    name = unique("alice")
    page = visit().register(name)
    page.wait_for("#me", name)
    page.wait_for("#no-rooms")
    session = session_of(page)
    page.page.reload()
    page.wait_until_in()
    page.log_out()
    page.wait_for("#login-message", "You have logged out.")
    assert page.page.evaluate("localStorage.getItem('synapse_like.session')") is None
    with refused(401, "M_UNKNOWN_TOKEN"):
        Client(home, token=session["access_token"]).initial_sync()
    page.find("#login-user").fill(name)
    page.find("#login-password").fill("wrong")
    page.find("#login-form button[type=submit]").click()
    page.wait_for("#login-fault")
    page.log_in(name)
    assert session_of(page)["access_token"] != session["access_token"]


def test_faults_of_a_registration_are_told(visit: Visit, unique: Unique) -> None:
    """LOGIN-3."""
    name = unique("taken")
    visit().register(name)
    page = visit()
    page.find("#switch-form").click()
    for user, password, repeated, sentence in (
        (name, PASSWORD, "another", "not the same"),
        (name, PASSWORD, PASSWORD, "taken"),
    ):
        page.find("#register-user").fill(user)
        page.find("#register-password").fill(password)
        page.find("#register-repeated").fill(repeated)
        page.find("#register-form button[type=submit]").click()
        page.wait_for("#login-fault", sentence)


def test_other_ways_lead_over_the_pages_of_the_server_and_back(visit: Visit, home: HomeServer, unique: Unique) -> None:
    """LOGIN-8, LOGIN-9: in the same tab, and no address ever holds the token."""
    name = unique("guest")
    page = visit()
    asked: list[Request] = []
    page.page.on("request", lambda request: asked.append(request))
    page.find("#switch-form").click()
    page.wait_for("#other-way", "Register another way").click()
    page.page.click('button[value="m.login.registration_token"]')
    page.page.fill("#token", SECRET_WORD)
    page.page.click("main form button")
    page.page.fill("#user", name)
    page.page.fill("#password", PASSWORD)
    page.page.fill("#repeated", PASSWORD)
    page.page.click("main form button")
    page.wait_until_in().wait_for("#me", name)
    session = session_of(page)
    assert session["user_id"] == f"@{name}:{home.name}"
    assert not any(session["access_token"] in request.url for request in asked)
    assert urlsplit(page.page.url).path == "/"
    assert page.page.evaluate("sessionStorage.length") == 0


def test_where_there_is_no_password_the_pages_of_the_server_are_the_way(visit: Visit, unique: Unique) -> None:
    """LOGIN-1, LOGIN-9."""

    def only_by_code(route: Route) -> None:
        route.fulfill(json={"flows": [{"type": "m.login.email.code"}]})

    name = unique("postal")
    visit().register(name)
    page = visit()
    page.page.route(f"**{PREFIX}/login", only_by_code)
    page.page.reload()
    page.wait_for("#other-way", "Continue to log in")
    expect(page.find("#login-form")).to_be_hidden()
    page.find("#other-way").click()
    page.page.fill("#user", name)
    page.page.fill("#password", PASSWORD)
    page.page.click("main form button")
    page.wait_until_in().wait_for("#me", name)


def test_closed_registration_is_told(visit: Visit) -> None:
    """LOGIN-11."""
    page = visit()
    page.page.route(f"**{PREFIX}/register", lambda route: route.fulfill(json={"flows": []}))
    page.find("#switch-form").click()
    page.wait_for("#login-closed", "Registration is closed")
    expect(page.find("#register-form")).to_be_hidden()
    expect(page.find("#other-way")).to_be_hidden()


def test_session_that_was_ended_leads_back_with_a_sentence(visit: Visit, person: Callable[[str], Client]) -> None:
    """LOGIN-10: at once, wherever the page stands; and in all tabs of the browser."""
    alice = person("alice")
    page = visit(alice)
    other = ChatPage(page.context, page.url).wait_until_in()
    alice.call("POST", "/logout/all", {})
    for each in (page, other):
        each.wait_for("#login-message", "Your session has ended")
        each.wait_for("#login-form")
    assert other.problems == []
