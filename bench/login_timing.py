"""Whether the time of an answer tells who has an account here.

    python -m bench.login_timing [--database sqlite|postgresql] [--tries 300]

asks a home server the same thing about people whom it knows and people whom it does not: logs in with a wrong
password, asks for a code by mail, asks for a reset. The questions are asked in an order of chance, one after another
with a pause, so that what disturbs the machine disturbs all alike.

**chance** is the probability that an answer about the one takes longer than one about the other, for two such answers
taken at random: 0.50 means that the time tells nothing. **z** says how far that is from 0.50, in standard deviations
of what chance alone would give (the test of Mann and Whitney); beyond 4 the two can be told apart, and the program
ends with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.support.subject import Subject
from bench.support.tables import table
from tests.support.client import PASSWORD, Client, Json
from tests.support.server import HomeServer
from tests.support.smtp_server import SmtpServer

CODE = "m.login.email.code"
#: Seconds between two questions, in which the server comes to rest.
PAUSE = 0.02
#: Beyond this many standard deviations it is no chance.
TOLD_APART = 4.0

Question = tuple[str, str, Json]


def questions() -> dict[str, list[Question]]:
    """What is asked, about whom; the first of each kind is what the others are compared with."""

    def by_password(user: str) -> Json:
        return {"type": "m.login.password", "user": user, "password": "a wrong password"}

    def by_mail(user: str, email: str) -> Json:
        return {"type": CODE, "user": user, "email": email}

    def reset(user: str, email: str) -> Json:
        return {"user_id": user, "email": email}

    address = "alice@example.org"
    return {
        "a wrong password": [
            ("of a user", "/login", by_password("alice")),
            ("of another user", "/login", by_password("bob")),
            ("of nobody", "/login", by_password("nobody")),
            ("of a closed account", "/login", by_password("carol")),
            ("of an account without one", "/login", by_password("dave")),
            ("of a user elsewhere", "/login", by_password("@alice:example.org")),
        ],
        "a code by mail": [
            ("to their address", "/login", by_mail("alice", address)),
            ("to another's address", "/login", by_mail("bob", address)),
            ("to nobody's address", "/login", by_mail("alice", "alicia@example.org")),
            ("for nobody", "/login", by_mail("nobody", address)),
        ],
        "a reset": [
            ("to their address", "/login/reset", reset("alice", address)),
            ("to another's address", "/login/reset", reset("bob", address)),
            ("to nobody's address", "/login/reset", reset("alice", "alicia@example.org")),
            ("for nobody", "/login/reset", reset("nobody", address)),
        ],
    }


def measure(client: Client, asked: Sequence[Question], tries: int) -> dict[str, list[float]]:
    """Ask everything so many times; the times of the answers, in ms."""
    order = [question for question in asked for _ in range(tries)]
    random.shuffle(order)
    found: dict[str, list[float]] = {about: [] for about, _, _ in asked}
    for about, path, body in order:
        time.sleep(PAUSE)
        before = time.perf_counter()
        answer = client.request("POST", path, body)
        found[about].append((time.perf_counter() - before) * 1000)
        assert answer.status in (200, 403), answer.body
    return found


def compared(these: Sequence[float], those: Sequence[float]) -> tuple[float, float]:
    """The chance that one of `those` is longer than one of `these`, and how far that is from a half."""
    ranked = sorted([(value, 0) for value in these] + [(value, 1) for value in those])
    ranks = sum(rank for rank, (_, which) in enumerate(ranked, 1) if which)
    count, other = len(those), len(these)
    longer = ranks - count * (count + 1) / 2
    deviation = (count * other * (count + other + 1) / 12) ** 0.5
    return longer / (count * other), (longer - count * other / 2) / deviation


def rows_of(asked: Sequence[Question], found: dict[str, list[float]]) -> tuple[list[list[str]], bool]:
    """The rows of a table, and whether something can be told apart."""
    first = found[asked[0][0]]
    rows, is_told_apart = [], False
    for about, values in found.items():
        row = [f"  {about}", f"{median(values):.2f}", f"{sorted(values)[len(values) * 9 // 10]:.2f}"]
        if values is not first:
            chance, z = compared(first, values)
            is_told_apart |= abs(z) > TOLD_APART
            row += [f"{chance:.2f}", f"{z:+.1f}"]
        rows.append([*row, "", ""][:5])
    return rows, is_told_apart


def prepare(server: HomeServer, smtp: SmtpServer) -> None:
    """Make the people who are asked about."""
    nobody = Client(server)
    for name in ("alice", "bob", "carol"):
        Client(server).register(name)
    begun = nobody.call("POST", "/register", {"type": CODE, "user": "dave", "email": "dave@example.org"})
    code = smtp.next_letter().subject.split()[0]
    nobody.call("POST", "/register", {"type": CODE, "session": begun["session"], "code": code})
    alice = Client(server).login("alice")
    alice.call("POST", "/account/3pid", {"email": "alice@example.org", "password": PASSWORD})
    link = next(word for word in smtp.next_letter().part("plain").split() if word.startswith("http"))
    nobody.request("POST", "/_matrix/" + link.partition("/_matrix/")[2], b"")
    assert alice.call("GET", "/account/3pid")["threepids"]
    told = server.command("deactivate-user", "carol")
    assert told.returncode == 0, told.stderr


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.login_timing", description="Time answers about accounts.")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--tries", type=int, default=300)
    options = parser.parse_args()
    flows = [["m.login.password"], [CODE]]
    is_told_apart = False
    rows: list[list[str]] = []
    with ExitStack() as ending:
        smtp = SmtpServer(Path(ending.enter_context(TemporaryDirectory()))).start()
        ending.callback(smtp.stop)
        settings = {
            "registration.flows": flows,
            "login.flows": flows,
            "mail.host": "127.0.0.1",
            "mail.port": smtp.port,
            "mail.security": "none",
            "password_hashing.memory_kib": 19456,
            "password_hashing.iterations": 2,
        }
        subject = ending.enter_context(Subject(options.database, settings))
        subject.start()
        prepare(subject.server, smtp)
        client = Client(subject.server)
        for what, asked in questions().items():
            measure(client, asked, 5)
            found = measure(client, asked, options.tries)
            more, apart = rows_of(asked, found)
            is_told_apart |= apart
            rows += [[what, "", "", "", ""], *more]
    title = f"{options.tries} answers each, {options.database}"
    print(table(title, [["median ms", "9 of 10 ms", "chance", "z"]], rows))
    sys.exit(int(is_told_apart))


if __name__ == "__main__":
    main()
