"""Getting in by mail, with a real mail server: codes, links, and a forgotten password."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

import pytest

from tests.conftest import NewDatabase
from tests.scenarios.conftest import FreshServer, Unique, above_storage, known, must_not_have_failed
from tests.support.client import PASSWORD, Answer, Client, Json, bad_json, forbidden, not_found, refused
from tests.support.databases import contains
from tests.support.processes import wait_until
from tests.support.server import QUICK, HomeServer
from tests.support.smtp_server import Letter, SmtpServer

PASSWORD_STAGE = "m.login.password"
CODE = "m.login.email.code"
URL = "m.login.email.url"
#: Each alone is enough.
FLOWS = {
    "registration.flows": [[PASSWORD_STAGE], [CODE], [URL]],
    "login.flows": [[PASSWORD_STAGE], [CODE], [URL]],
}

not_yet = partial(refused, 401, "M_LOGIN_EMAIL_URL_NOT_YET")


def sending_by(smtp: SmtpServer) -> dict[str, object]:
    """The settings by which a home server sends by a mail server."""
    return {"mail.host": "127.0.0.1", "mail.port": smtp.port, "mail.security": "none", "mail.timeout": 3.0}


@pytest.fixture(scope="module")
def one_smtp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    server = SmtpServer(tmp_path_factory.mktemp("smtp")).start()
    yield server
    server.stop()


@pytest.fixture
def smtp(one_smtp: SmtpServer) -> Iterator[SmtpServer]:
    """The mail server, which behaves well."""
    yield one_smtp
    one_smtp.behave()
    while one_smtp.has_new():
        one_smtp.next_letter()


@pytest.fixture(scope="module")
def mailing_server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: NewDatabase,
    one_smtp: SmtpServer,
) -> Iterator[HomeServer]:
    """One server for all tests of this module that do not need their own."""
    settings = {**QUICK, **FLOWS, **sending_by(one_smtp)}
    with (
        new_database() as url,
        known(request, HomeServer(tmp_path_factory.mktemp("home") / "data", url, settings)) as server,
    ):
        yield server.start()


@pytest.fixture
def server(mailing_server: HomeServer) -> Iterator[HomeServer]:
    mailing_server.forget_log()
    yield mailing_server
    must_not_have_failed(mailing_server)


@pytest.fixture
def nobody(server: HomeServer) -> Client:
    """A client without a login."""
    return Client(server)


def ask(user: str, email: str | None = None, kind: str = CODE, **more: object) -> Json:
    """What is submitted to be sent a letter."""
    return {"type": kind, "user": user, "email": email or f"{user}@example.org", **more}


def code_in(letter: Letter) -> str:
    found = re.search(r"^ +(\d{8})$", letter.part("plain"), re.MULTILINE)
    assert found is not None
    return found[1]


def link_in(letter: Letter) -> str:
    found = re.search(r"https?://\S+", letter.part("plain"))
    assert found is not None
    return found[0]


def visit(link: str, method: str = "GET", **fields: str) -> Answer:
    """Open a page, or press its button, from another device: a connection that knows nothing else."""
    parts = urlsplit(link)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=20)
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
    connection.request(method, parts.path, urlencode(fields) if method == "POST" else None, headers)
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


def person(nobody: Client, smtp: SmtpServer, name: str) -> Client:
    """Somebody with an address and a password."""
    made = Client(nobody.server).register(name)
    made.call("POST", "/account/3pid", {"email": f"{name}@example.org", "password": PASSWORD})
    assert visit(link_in(smtp.next_letter()), "POST").status == 200
    return made


def register_in_two_steps(nobody: Client, smtp: SmtpServer, name: str) -> Client:
    """The same, where registration takes a code and then a password."""
    session = nobody.call("POST", "/register", ask(name))["session"]
    code = code_in(smtp.next_letter())
    then = nobody.call("POST", "/register", {"type": CODE, "session": session, "code": code})
    assert then == {"session": session, "next": PASSWORD_STAGE}
    body = {"type": PASSWORD_STAGE, "session": session, "user": name, "password": PASSWORD}
    made = nobody.call("POST", "/register", body)
    return Client(nobody.server, token=made["access_token"], user_id=made["user_id"])


@pytest.fixture
def two_step_server(fresh_server: FreshServer, smtp: SmtpServer) -> HomeServer:
    """Registration takes a code and a password, login the password and a code."""
    flows = {"registration.flows": [[CODE, PASSWORD_STAGE]], "login.flows": [[PASSWORD_STAGE, CODE]]}
    return fresh_server({**flows, **sending_by(smtp)})


# By a code.


def test_code_logs_in(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4, LOGIN-2: the exchange as the specification words it, in registration and in login."""
    name = unique("erin")
    for path in ("/register", "/login"):
        begun = nobody.call("POST", path, ask(name, f"{name}@example.org"))
        session = begun.pop("session")
        assert begun == {"type": CODE}
        letter = smtp.next_letter()
        assert (letter.recipient, letter.message["To"]) == (f"{name}@example.org",) * 2
        assert code_in(letter) in letter.subject
        assert code_in(letter) in letter.part("html")
        done = nobody.call("POST", path, {"type": CODE, "session": session, "code": code_in(letter)})
        assert done["user_id"] == f"@{name}:{nobody.server.name}"
        assert Client(nobody.server, token=done["access_token"]).initial_sync()["rooms"] == []


def test_code_may_be_typed_as_people_type(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4: and the address in capitals."""
    name = unique("erin")
    session = nobody.call("POST", "/register", ask(name, f" {name.upper()}@Example.ORG "))["session"]
    code = code_in(smtp.next_letter())
    body = {"type": CODE, "session": session, "code": f" {code[:4]} {code[4:]} "}
    alice = Client(nobody.server, token=nobody.call("POST", "/register", body)["access_token"])
    assert [one["address"] for one in alice.call("GET", "/account/3pid")["threepids"]] == [f"{name}@example.org"]


def test_wrong_codes_are_limited(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4, LOGIN-2: after ten the session is over, and the right code is of no use."""
    person(nobody, smtp, name := unique("erin"))
    session = nobody.call("POST", "/login", ask(name))["session"]
    code = code_in(smtp.next_letter())
    wrong = f"{(int(code) + 1) % 10**8:08}"
    for _ in range(10):
        with forbidden():
            nobody.call("POST", "/login", {"type": CODE, "session": session, "code": wrong})
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})


def test_wrong_codes_sent_at_once_are_limited_as_well(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4: none slips through between the check and the count."""
    person(nobody, smtp, name := unique("erin"))
    session = nobody.call("POST", "/login", ask(name))["session"]
    code = code_in(smtp.next_letter())
    guesses = [f"{(int(code) + n) % 10**8:08}" for n in range(1, 15)]
    pending = [nobody.start("POST", "/login", {"type": CODE, "session": session, "code": guess}) for guess in guesses]
    said = [one.answer().json["error"] for one in pending]
    assert sum("wrong" in sentence for sentence in said) == 10
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})


def test_code_is_good_once_and_in_its_session(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4, LOGIN-2."""
    person(nobody, smtp, name := unique("erin"))
    first = nobody.call("POST", "/login", ask(name))["session"]
    first_code = code_in(smtp.next_letter())
    second = nobody.call("POST", "/login", ask(name))["session"]
    second_code = code_in(smtp.next_letter())
    for session, code in ((first, second_code), (second, first_code), ("made-up", first_code)):
        with forbidden():
            nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})
    nobody.call("POST", "/login", {"type": CODE, "session": first, "code": first_code})
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": first, "code": first_code})


def test_another_code_can_be_asked_for(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4: the one before is then void."""
    person(nobody, smtp, name := unique("erin"))
    session = nobody.call("POST", "/login", ask(name))["session"]
    first = code_in(smtp.next_letter())
    assert nobody.call("POST", "/login", {"type": CODE, "session": session})["session"] == session
    second = code_in(smtp.next_letter())
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": session, "code": first})
    assert nobody.call("POST", "/login", {"type": CODE, "session": session, "code": second})["access_token"]


def test_code_without_a_session_is_refused(nobody: Client) -> None:
    """LOGIN-4."""
    for body in ({"code": "12345678"}, {"code": "12345678", "user": "erin", "email": "erin@example.org"}):
        with forbidden():
            nobody.call("POST", "/login", {"type": CODE, **body})
    for given in ({}, {"user": "erin"}, {"email": "a@example.org"}, {"user": 5, "email": "a@example.org"}):
        with bad_json():
            nobody.call("POST", "/login", {"type": CODE, **given})


@pytest.mark.parametrize(
    "email",
    [
        "",
        "erin",
        "@example.org",
        "erin@",
        "a b@example.org",
        "erin@example.org\r\nBcc: all@example.org",
        "é@example.org",
    ],
)
def test_what_is_no_address_is_refused(nobody: Client, smtp: SmtpServer, email: str) -> None:
    """LOGIN-4: nor can it put more into the letter."""
    before = smtp.recipients_asked_for()
    for path in ("/login", "/register"):
        with bad_json():
            nobody.call("POST", path, {"type": CODE, "user": "erin", "email": email})
    assert smtp.recipients_asked_for() == before


def test_login_by_mail_does_not_tell_whether_the_address_is_known(
    nobody: Client, smtp: SmtpServer, unique: Unique
) -> None:
    """LOGIN-4, LOGIN-5: the mail server is asked the same, and only the owner gets a letter."""
    person(nobody, smtp, name := unique("erin"))
    person(nobody, smtp, other := unique("frank"))
    asked = len(smtp.recipients_asked_for())
    answers = []
    pairs = [(name, f"{name}@example.org"), (name, f"{other}@example.org"), (unique("x"), f"{name}@example.org")]
    pairs.append((name, "nobody@example.org"))
    for kind in (CODE, URL):
        for user, email in pairs:
            answer = nobody.request("POST", "/login", ask(user, email, kind))
            answers.append((answer.status, {**answer.json, "session": None}))
    assert answers == [(200, {"type": CODE, "session": None})] * 4 + [(200, {"type": URL, "session": None})] * 4
    assert len(smtp.recipients_asked_for()) == asked + 8
    assert [smtp.next_letter().recipient for _ in range(2)] == [f"{name}@example.org"] * 2
    time.sleep(0.8)
    assert not smtp.has_new()


def test_address_belongs_to_one_account(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4: this is told only to who has shown that the address is theirs."""
    person(nobody, smtp, name := unique("erin"))
    session = nobody.call("POST", "/register", ask(unique("frank"), f"{name}@example.org"))["session"]
    code = code_in(smtp.next_letter())
    with forbidden():
        nobody.call("POST", "/register", {"type": CODE, "session": session, "code": code})


def test_taken_name_is_told_before_a_mail_goes_out(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-3, LOGIN-4."""
    person(nobody, smtp, name := unique("erin"))
    for kind in (CODE, URL):
        with refused(400, "M_USER_IN_USE"):
            nobody.call("POST", "/register", ask(name, "new@example.org", kind))
    assert not smtp.has_new()


def test_codes_links_and_sessions_are_not_kept_readable(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-2, LOGIN-4, LOGIN-5."""
    session = nobody.call("POST", "/register", ask(unique("erin")))["session"]
    code = code_in(smtp.next_letter())
    nobody.call("POST", "/register", ask(unique("frank"), kind=URL))
    secret = link_in(smtp.next_letter()).rpartition("/")[2]
    server = nobody.server
    for text in (session, code, secret):
        assert not contains(server.database, server.data_dir, text)
        assert text not in server.log.read_text()


# By a link.


def test_link_logs_in_from_another_device(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-5, LOGIN-2: and only its button, once; to open it changes nothing."""
    name = unique("erin")
    for path in ("/register", "/login"):
        begun = nobody.call("POST", path, ask(name, kind=URL))
        session = begun.pop("session")
        assert begun == {"type": URL}
        poll = {"type": URL, "session": session}
        with not_yet():
            nobody.call("POST", path, poll)
        link = link_in(smtp.next_letter())
        assert link.startswith(f"http://127.0.0.1:{nobody.server.port}/_matrix/client/")
        for _ in range(2):  # a scanner, and then the person
            page = visit(link)
            assert page.status == 200
            assert f"@{name}:{nobody.server.name}" in page.body.decode()
        with not_yet():
            nobody.call("POST", path, poll)
        assert visit(link, "POST").status == 200
        assert visit(link, "POST").status == 403
        assert visit(link).status == 403
        done = nobody.call("POST", path, poll)
        assert done["user_id"] == f"@{name}:{nobody.server.name}"
        with forbidden():
            nobody.call("POST", path, poll)


def test_pages_hold_nothing_from_elsewhere_and_no_secret(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-5."""
    session = nobody.call("POST", "/register", ask(unique("erin"), kind=URL))["session"]
    link = link_in(smtp.next_letter())
    for page in (visit(link), visit(f"{link}x")):
        text = page.body.decode()
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (page.headers["Referrer-Policy"], page.headers["Cache-Control"]) == ("no-referrer", "no-store")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert not re.search(r"<script|src=|https?://", text)
        assert session not in text


def test_new_link_voids_the_one_before(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-5."""
    name = unique("erin")
    session = nobody.call("POST", "/register", ask(name, kind=URL))["session"]
    first = link_in(smtp.next_letter())
    nobody.call("POST", "/register", ask(name, kind=URL, session=session))
    second = link_in(smtp.next_letter())
    assert visit(first, "POST").status == 403
    assert visit(second, "POST").status == 200
    assert nobody.call("POST", "/register", {"type": URL, "session": session})["access_token"]


def test_stage_under_way_cannot_be_left_for_another(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-2, LOGIN-8: a session keeps to the flow and the user it began with."""
    name = unique("erin")
    session = nobody.call("POST", "/register", ask(name, kind=URL))["session"]
    smtp.next_letter()
    with forbidden():
        nobody.call("POST", "/register", ask(name, session=session))
    with forbidden():
        nobody.call("POST", "/register", ask(unique("frank"), kind=URL, session=session))
    with forbidden():
        nobody.call("POST", "/login", {"type": URL, "session": session})
    body = {"type": PASSWORD_STAGE, "user": name, "password": PASSWORD, "session": session}
    with forbidden():
        nobody.call("POST", "/register", body)
    assert not smtp.has_new()


def test_links_and_sessions_survive_a_restart(fresh_server: FreshServer, smtp: SmtpServer) -> None:
    """LOGIN-5, LOGIN-2: in good order or by kill -9, before and after the link was confirmed."""
    server = fresh_server({**FLOWS, **sending_by(smtp)})
    nobody = Client(server)
    session = nobody.call("POST", "/register", ask("erin", kind=URL))["session"]
    link = link_in(smtp.next_letter())
    server.restart()
    assert visit(link, "POST").status == 200
    server.kill9()
    server.start()
    assert nobody.call("POST", "/register", {"type": URL, "session": session})["access_token"]


def test_link_points_to_the_public_url(fresh_server: FreshServer, smtp: SmtpServer) -> None:
    """LOGIN-5."""
    server = fresh_server({**FLOWS, **sending_by(smtp), "client.public_url": "https://matrix.example.org/"})
    Client(server).call("POST", "/register", ask("erin", kind=URL))
    assert link_in(smtp.next_letter()).startswith("https://matrix.example.org/_matrix/client/pages/login/")


def test_sessions_and_links_expire(fresh_server: FreshServer, smtp: SmtpServer) -> None:
    """LOGIN-2, LOGIN-5."""
    server = fresh_server({**FLOWS, **sending_by(smtp), "login.session_lifetime": 1})
    nobody = Client(server)
    session = nobody.call("POST", "/register", ask("erin", kind=URL))["session"]
    link = link_in(smtp.next_letter())
    time.sleep(1.1)
    assert visit(link, "POST").status == 403
    with forbidden():
        nobody.call("POST", "/register", {"type": URL, "session": session})


# Several stages in a row.


def test_login_by_password_and_code(two_step_server: HomeServer, smtp: SmtpServer) -> None:
    """LOGIN-8, LOGIN-1: two factors, announced as stages."""
    nobody = Client(two_step_server)
    assert nobody.call("GET", "/login") == {"flows": [{"type": PASSWORD_STAGE, "stages": [PASSWORD_STAGE, CODE]}]}
    assert nobody.call("GET", "/register") == {"flows": [{"type": CODE, "stages": [CODE, PASSWORD_STAGE]}]}
    register_in_two_steps(nobody, smtp, "erin")

    password = {"type": PASSWORD_STAGE, "user": "erin", "password": PASSWORD}
    begun = nobody.call("POST", "/login", password)
    session = begun["session"]
    assert begun == {"session": session, "next": CODE}
    assert nobody.call("POST", "/login", ask("erin", session=session)) == {"type": CODE, "session": session}
    code = code_in(smtp.next_letter())
    assert nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})["access_token"]


def test_code_alone_is_not_enough_where_two_stages_are_asked_for(two_step_server: HomeServer, smtp: SmtpServer) -> None:
    """LOGIN-2, LOGIN-8: no stage is skipped, and none done in another's name."""
    nobody = Client(two_step_server)
    register_in_two_steps(nobody, smtp, "erin")
    register_in_two_steps(nobody, smtp, "mallory")
    with forbidden():
        nobody.call("POST", "/login", ask("erin"))
    session = nobody.call("POST", "/login", {"type": PASSWORD_STAGE, "user": "mallory", "password": PASSWORD})[
        "session"
    ]
    with forbidden():
        nobody.call("POST", "/login", ask("erin", session=session))
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": session, "code": "12345678"})
    nobody.call("POST", "/login", ask("mallory", "erin@example.org", session=session))
    time.sleep(0.8)
    assert not smtp.has_new(), "erin's address is not mallory's"


def test_password_that_was_changed_between_two_stages_is_of_no_use(
    two_step_server: HomeServer, smtp: SmtpServer
) -> None:
    """LOGIN-2, LOGIN-8."""
    nobody = Client(two_step_server)
    erin = register_in_two_steps(nobody, smtp, "erin")
    session = nobody.call("POST", "/login", {"type": PASSWORD_STAGE, "user": "erin", "password": PASSWORD})["session"]
    nobody.call("POST", "/login", ask("erin", session=session))
    code = code_in(smtp.next_letter())
    erin.call("POST", "/account/password", {"password": PASSWORD, "new_password": "another one"})
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})


# When the mail server is not well.


@above_storage
@pytest.mark.parametrize(
    "behaviour", ["later-sender", "refuse-sender", "later-recipient", "slow-recipient", "hang-up-recipient"]
)
@pytest.mark.parametrize("path", ["/login", "/register"])
def test_mail_server_that_is_not_well_is_told_of_and_can_be_tried_again(
    nobody: Client, smtp: SmtpServer, unique: Unique, behaviour: str, path: str
) -> None:
    """LOGIN-4: also to who asks for an address that nobody has, so that it tells nothing."""
    person(nobody, smtp, name := unique("erin"))
    names = [name, unique("nobody")] if path == "/login" else [unique("frank")]
    smtp.behave(behaviour)
    for user in names:
        with refused(503, "M_UNAVAILABLE"):
            nobody.call("POST", path, ask(user))
    smtp.behave()
    assert nobody.call("POST", path, ask(names[0]))["session"]
    smtp.next_letter()


@above_storage
@pytest.mark.parametrize("path", ["/login", "/register"])
def test_address_that_the_mail_server_refuses_is_told_of(
    nobody: Client, smtp: SmtpServer, unique: Unique, path: str
) -> None:
    """LOGIN-4: whether or not an account has it."""
    person(nobody, smtp, name := unique("erin"))
    names = [name, unique("nobody")] if path == "/login" else [unique("frank")]
    smtp.behave("refuse-recipient")
    for user in names:
        with refused(400, "M_INVALID_PARAM"):
            nobody.call("POST", path, ask(user))


@above_storage
@pytest.mark.parametrize("behaviour", ["later-letter", "slow-letter", "hang-up-letter"])
def test_letter_that_does_not_get_through_is_told_of_at_registration(
    nobody: Client, smtp: SmtpServer, unique: Unique, behaviour: str
) -> None:
    """LOGIN-4: and at login changes nothing, since it would tell that there was one."""
    person(nobody, smtp, name := unique("erin"))
    smtp.behave(behaviour)
    with refused(503, "M_UNAVAILABLE"):
        nobody.call("POST", "/register", ask(unique("frank")))
    session = nobody.call("POST", "/login", ask(name))["session"]
    wait_until("the letter to be given up", lambda: "task=mail" in nobody.server.recent_log())
    smtp.behave()
    nobody.call("POST", "/login", {"type": CODE, "session": session})
    code = code_in(smtp.next_letter())
    assert nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})["access_token"]


def test_mail_server_that_is_down_is_told_of_and_can_be_tried_again(
    fresh_server: FreshServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """LOGIN-4, LOGIN-10."""
    smtp = SmtpServer(tmp_path_factory.mktemp("smtp"))
    server = fresh_server({**FLOWS, **sending_by(smtp)})
    nobody = Client(server)
    for path, body in (("/register", ask("erin")), ("/login", ask("erin"))):
        with refused(503, "M_UNAVAILABLE"):
            nobody.call("POST", path, body)
    with refused(503, "M_UNAVAILABLE"):
        nobody.call("POST", "/login/reset", {"user_id": "erin", "email": "erin@example.org"})
    smtp.start()
    try:
        session = nobody.call("POST", "/register", ask("erin"))["session"]
        body = {"type": CODE, "session": session, "code": code_in(smtp.next_letter())}
        assert nobody.call("POST", "/register", body)["access_token"]
    finally:
        smtp.stop()


def test_letters_are_limited_for_each_address_and_each_user(fresh_server: FreshServer, smtp: SmtpServer) -> None:
    """LOGIN-4, RATE-1: with a time after which one may try again, known or not."""
    limits = {"rate_limits.enabled": True, "rate_limits.classes.mail": {"per_second": 0.01, "burst": 2}}
    nobody = Client(fresh_server({**FLOWS, **sending_by(smtp), **limits}))
    for user in ("erin", "frank"):
        nobody.call("POST", "/login", ask(user, "one@example.org"))
    for user, email in (("grace", "one@example.org"), ("erin", "one@example.org")):
        answer = nobody.request("POST", "/login", ask(user, email))
        assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert 90_000 < answer.json["retry_after_ms"] <= 100_000
    nobody.call("POST", "/login", ask("erin", "two@example.org"))
    with refused(429, "M_LIMIT_EXCEEDED"):
        nobody.call("POST", "/login", ask("erin", "three@example.org"))


def test_tries_are_limited_for_each_user_whether_there_is_one_or_not(fresh_server: FreshServer) -> None:
    """LOGIN-3, RATE-1: from whatever address, in however many sessions."""
    limits = {"rate_limits.enabled": True, "rate_limits.classes.tries": {"per_second": 0.2, "burst": 3}}
    nobody = Client(fresh_server(limits))
    nobody.register("erin")
    for user in ("erin", "nobody"):
        for _ in range(3):
            with forbidden():
                nobody.login(user, "wrong horse")
        answer = nobody.request("POST", "/login", {"type": PASSWORD_STAGE, "user": user, "password": PASSWORD})
        assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert 0 < answer.json["retry_after_ms"] <= 5000
    time.sleep(answer.json["retry_after_ms"] / 1000)
    nobody.login("erin")


def test_waiting_for_a_link_does_not_use_up_the_attempts(fresh_server: FreshServer, smtp: SmtpServer) -> None:
    """LOGIN-5, RATE-1: but is limited, too, also with a session that is none."""
    limits = {
        "rate_limits.enabled": True,
        "rate_limits.classes.registration": {"per_second": 0.01, "burst": 1},
        "rate_limits.classes.login_steps": {"per_second": 0.01, "burst": 8},
    }
    nobody = Client(fresh_server({**FLOWS, **sending_by(smtp), **limits}))
    session = nobody.call("POST", "/register", ask("erin", kind=URL))["session"]
    for _ in range(6):
        with not_yet():
            nobody.call("POST", "/register", {"type": URL, "session": session})
    for more in ({}, {"session": None}):
        with refused(429, "M_LIMIT_EXCEEDED"):
            nobody.call("POST", "/register", ask("frank", kind=URL, **more))
    with forbidden():
        nobody.call("POST", "/register", ask("frank", kind=URL, session="made-up"))
    assert visit(link_in(smtp.next_letter()), "POST").status == 200
    assert nobody.call("POST", "/register", {"type": URL, "session": session})["access_token"]
    with refused(429, "M_LIMIT_EXCEEDED"):
        nobody.call("POST", "/register", ask("frank", kind=URL, session="made-up"))


# A forgotten password.


def test_forgotten_password_is_reset_by_mail(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-10: by the button of the page, once; all logins end, and their long polls."""
    erin = person(nobody, smtp, name := unique("erin"))
    poll = erin.poll(erin.present(), timeout=120_000)
    assert nobody.call("POST", "/login/reset", {"user_id": erin.user_id, "email": f"{name}@example.org"}) == {}
    link = link_in(smtp.next_letter())
    for _ in range(2):
        assert visit(link).status == 200
    assert erin.initial_sync()["rooms"] == [], "nothing has happened yet"

    different = visit(link, "POST", password="a new password", repeated="another")
    assert (different.status, "not the same" in different.body.decode()) == (400, True)
    assert visit(link, "POST", password="short", repeated="short").status == 400
    assert visit(link, "POST", password="a new password", repeated="a new password").status == 200
    ended = poll.answer()
    assert (ended.status, ended.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    with forbidden():
        nobody.login(name)
    assert Client(nobody.server).login(name, "a new password").user_id == erin.user_id
    assert visit(link, "POST", password="a third password", repeated="a third password").status == 404
    Client(nobody.server).login(name, "a new password")


def test_reset_does_not_tell_whether_the_address_is_known(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-10."""
    person(nobody, smtp, name := unique("erin"))
    person(nobody, smtp, other := unique("frank"))
    bodies = [
        {"user_id": user, "email": email}
        for user, email in (
            (unique("nobody"), f"{name}@example.org"),
            (name, f"{other}@example.org"),
            (name, "nobody@example.org"),
            ("@erin:elsewhere.org", f"{name}@example.org"),
            (name, f"{name}@example.org"),
        )
    ]
    asked = len(smtp.recipients_asked_for())
    answers = {
        (answer.status, answer.body) for body in bodies for answer in [nobody.request("POST", "/login/reset", body)]
    }
    assert answers == {(200, b"{}")}
    assert len(smtp.recipients_asked_for()) == asked + len(bodies)
    assert smtp.next_letter().recipient == f"{name}@example.org"
    time.sleep(0.8)
    assert not smtp.has_new()


def test_reset_links_are_void_after_another_password(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-10: nobody who had one sent before can undo it."""
    erin = person(nobody, smtp, name := unique("erin"))
    links = []
    for _ in range(2):
        nobody.call("POST", "/login/reset", {"user_id": name, "email": f"{name}@example.org"})
        links.append(link_in(smtp.next_letter()))
    erin.call("POST", "/account/password", {"password": PASSWORD, "new_password": "another one"})
    for link in links:
        assert visit(link).status == 404
        assert visit(link, "POST", password="a new password", repeated="a new password").status == 404
    Client(nobody.server).login(name, "another one")


def test_without_a_mail_server_nothing_is_sent(fresh_server: FreshServer) -> None:
    """LOGIN-10."""
    nobody = Client(fresh_server())
    with forbidden():
        nobody.call("POST", "/login/reset", {"user_id": "erin", "email": "erin@example.org"})
    erin = nobody.register("erin")
    with forbidden():
        erin.call("POST", "/account/3pid", {"email": "erin@example.org", "password": PASSWORD})


# The account's own business.


def test_password_is_changed_by_who_knows_it(nobody: Client, unique: Unique) -> None:
    """LOGIN-10: the login that does it goes on, all others end at once."""
    name = unique("erin")
    erin = Client(nobody.server).register(name)
    other = Client(nobody.server).login(name)
    poll = other.poll(other.present(), timeout=120_000)
    with forbidden():
        erin.call("POST", "/account/password", {"password": "wrong horse", "new_password": "another one"})
    with bad_json():
        erin.call("POST", "/account/password", {"password": PASSWORD, "new_password": "short"})
    with refused(401, "M_MISSING_TOKEN"):
        nobody.call("POST", "/account/password", {"password": PASSWORD, "new_password": "another one"})
    assert erin.call("POST", "/account/password", {"password": PASSWORD, "new_password": "another one"}) == {}
    ended = poll.answer()
    assert (ended.status, ended.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert erin.initial_sync()["rooms"] == []
    with forbidden():
        nobody.login(name)
    Client(nobody.server).login(name, "another one")


def test_address_is_added_later_and_taken_away(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4, LOGIN-10: by who knows the password, and reads the mail."""
    name = unique("erin")
    erin = Client(nobody.server).register(name)
    body = {"email": f"{name}@example.org", "password": PASSWORD}
    with forbidden():
        erin.call("POST", "/account/3pid", {**body, "password": "wrong horse"})
    erin.call("POST", "/account/3pid", body)
    link = link_in(smtp.next_letter())
    assert f"{name}@example.org" in visit(link).body.decode()
    assert erin.call("GET", "/account/3pid") == {"threepids": []}
    assert visit(link, "POST").status == 200
    assert visit(link, "POST").status == 404
    (one,) = erin.call("GET", "/account/3pid")["threepids"]
    assert (one["medium"], one["address"]) == ("email", f"{name}@example.org")

    session = nobody.call("POST", "/login", ask(name))["session"]
    code = code_in(smtp.next_letter())
    with forbidden():
        erin.call("POST", "/account/3pid/delete", {**body, "password": "wrong horse"})
    erin.call("POST", "/account/3pid/delete", body)
    with not_found():
        erin.call("POST", "/account/3pid/delete", body)
    with forbidden():
        nobody.call("POST", "/login", {"type": CODE, "session": session, "code": code})


def test_address_of_another_account_cannot_be_added(nobody: Client, smtp: SmtpServer, unique: Unique) -> None:
    """LOGIN-4."""
    person(nobody, smtp, name := unique("erin"))
    frank = Client(nobody.server).register(unique("frank"))
    frank.call("POST", "/account/3pid", {"email": f"{name}@example.org", "password": PASSWORD})
    assert visit(link_in(smtp.next_letter()), "POST").status == 403
    assert frank.call("GET", "/account/3pid") == {"threepids": []}


def test_letters_of_ones_own_take_the_place_of_the_usual_ones(
    fresh_server: FreshServer, smtp: SmtpServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """LOGIN-4: those that one has written; the rest stays as it is."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "login_code.txt").write_text("Willkommen bei {{ server_name }}\n\nDer Schlüssel:\n\n    {{ code }}\n")
    settings = {"mail.templates": str(folder), "mail.sender": "Die Poste <post@example.org>"}
    nobody = Client(fresh_server({**FLOWS, **sending_by(smtp), **settings}))
    session = nobody.call("POST", "/register", ask("erin"))["session"]
    letter = smtp.next_letter()
    assert letter.subject == f"Willkommen bei {nobody.server.name}"
    assert "Der Schlüssel" in letter.part("plain")
    assert "enter this code" in letter.part("html")
    assert (letter.sender, letter.message["From"]) == ("post@example.org", "Die Poste <post@example.org>")
    assert letter.message["Auto-Submitted"] == "auto-generated"
    nobody.call("POST", "/register", {"type": CODE, "session": session, "code": code_in(letter)})
