"""What it costs that somebody comes, goes, or says what they want to be seen as: `python -m bench.presence`.

In a room of home server A, 10, 100 and 1000 users look, each with a long poll, and somebody of A changes their presence
until all have been told: those who look are users of A, then of another home server B. And 500 users of A in a room
come, and go, at once, while somebody of A looks, and then of B.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import twisted
from bench.support.lines import Line, User, request
from bench.support.lookers import Lookers
from bench.support.place import place
from bench.support.results import NAMES
from bench.support.subject import Subject, federated
from bench.support.tables import table
from bench.support.usage import Usage
from tests.support.certificates import Authority

DATABASES = ("sqlite", "postgresql")
OBSERVERS = (10, 100, 1000)
CHANGES = 10
CROWD = 500
#: Longer than a device is there without a stream, and than it takes to see that.
GONE_SECONDS = 40
#: After so long, everybody has been told that those who look have come; also on a busy machine.
SETTLED_SECONDS = 10

HEADINGS = ["A", "A's PG", "B", "B's PG", "µs each", "answers"]


def register(subject: Subject, prefix: str, count: int) -> list[User]:
    """Make users."""
    bodies = [{"type": "m.login.password", "user": f"{prefix}{n}", "password": "correct horse"} for n in range(count)]
    users = []
    with Line(subject.address) as line:
        for body in bodies:
            answer = line.ask_json(request("POST", "/register", body))
            users.append(User(answer["user_id"], answer["access_token"]))
    return users


def room_of(a: Subject, users: Sequence[User], b: Subject | None = None, others: Sequence[User] = ()) -> str:
    """A room of A in which some users are.

    :param others: users of B, who come in, too.
    """
    with Line(a.address) as line:
        room = line.ask_json(users[0].request("POST", "/createRoom", {"visibility": "public"}))["room_id"]
        for user in users[1:]:
            line.ask(user.request("POST", f"/rooms/{quote(room, safe='')}/join", {}))
    if b is not None:
        with Line(b.address) as line:
            for user in others:
                line.ask(user.request("POST", f"/rooms/{quote(room, safe='')}/join", {}))
    return str(room)


class Both:
    """Two home servers, and what they use for something."""

    def __init__(self, a: Subject, b: Subject) -> None:
        self.a, self.b = a, b
        self.used: tuple[Usage, Usage]

    @contextmanager
    def watched(self, operations: int) -> Iterator[None]:
        """Watch both at some work, until they have nothing to do any more."""
        self.settle()
        a, b = self.a.watch(), self.b.watch()
        with a, b:
            yield
            self.settle()
        self.used = a.per(operations), b.per(operations)

    def settle(self) -> None:
        """Wait until neither has anything to do."""
        self.a.settle()
        self.b.settle()

    def row(self, name: str, told: int, answers: float | None = None) -> list[str]:
        """A row of the table.

        :param told: how many are told, or tell.
        """
        a, b = self.used
        cells = [f"{seconds * 1000:.2f}" for seconds in (a.server, a.database, b.server, b.database)]
        each = (a.server + a.database + b.server + b.database) / told
        return [name, *cells, f"{each * 1e6:.0f}", "" if answers is None else f"{answers:.0f}"]


def one_change(both: Both, count: int, *, elsewhere: bool) -> list[str]:
    """What it costs that one of many who look changes.

    :param elsewhere: those who look are users of B.
    """
    home = both.b if elsewhere else both.a
    [changing] = register(both.a, f"changing{count}{elsewhere}x", 1)
    looking = register(home, f"looking{count}x", count)
    if elsewhere:
        room_of(both.a, [changing], both.b, looking)
    else:
        room_of(both.a, [changing, *looking])
    path = f"/presence/{quote(changing.user_id)}/status"
    answers = 0
    with Line(both.a.address) as line, Lookers(home, looking) as lookers:
        time.sleep(SETTLED_SECONDS)
        # The first change is what it takes to ask for somebody; and the one who changes has to be there all the time.
        line.ask(changing.request("PUT", path, {"presence": "online", "status_msg": "before."}))
        lookers.hear([b"before."])
        with both.watched(CHANGES):
            for n in range(CHANGES):
                body = {"presence": ("unavailable", "online")[n % 2], "status_msg": f"change {n}."}
                line.send(changing.request("PUT", path, body))
                answers += lookers.hear([f"change {n}.".encode()])
                line.receive()
    return both.row(f"one changes, {count} look on {'B' if elsewhere else 'A'}", count, answers / CHANGES)


def crowd(both: Both, *, elsewhere: bool) -> list[list[str]]:
    """What it costs that everybody in a room of A comes, and goes, at once.

    :param elsewhere: the one who looks is a user of B, and not of A.
    """
    users = register(both.a, f"crowd{elsewhere}x", CROWD)
    home = both.b if elsewhere else both.a
    witnesses = register(home, "witness", 1)
    if elsewhere:
        room_of(both.a, users, both.b, witnesses)
    else:
        room_of(both.a, [*users, *witnesses])
    where = "B" if elsewhere else "A"
    rows = []
    with Lookers(home, witnesses) as witness:
        time.sleep(SETTLED_SECONDS)
        with both.watched(1), Lookers(both.a, users):
            witness.hear([users[-1].user_id.encode()])
            both.settle()
        rows.append(both.row(f"{CROWD} come, one looks on {where}", CROWD))
        with both.watched(1):
            time.sleep(GONE_SECONDS)
        rows.append(both.row(f"{CROWD} go, one looks on {where}", CROWD))
    return rows


def measure(database: str) -> tuple[str, str]:
    """Measure two servers on one kind of database; its version, and the table."""
    with ExitStack() as ending:
        authority = Authority(Path(ending.enter_context(TemporaryDirectory(prefix="synapse-like-bench-"))))
        settings = {**federated(authority), "presence.enabled": True}
        a, b = (ending.enter_context(Subject(database, settings)) for _ in range(2))
        a.start()
        b.start()
        both = Both(a, b)
        rows = []
        for elsewhere in (False, True):
            for count in OBSERVERS:
                rows.append(one_change(both, count, elsewhere=elsewhere))
                # What it costs that those who looked are gone is not to be counted with what comes next.
                time.sleep(GONE_SECONDS)
            rows += crowd(both, elsewhere=elsewhere)
        title = f"presence on {NAMES[database]}: CPU time in ms"
        return a.database_version(), table(title, [HEADINGS], rows)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.presence", description="Measure what presence costs.")
    parser.add_argument("--database", choices=[*DATABASES, "both"], default="both")
    options = parser.parse_args()
    # The processes we start end with us, their directories only if we end in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    measured = [measure(name) for name in (DATABASES if options.database == "both" else (options.database,))]
    where = place(f"Twisted {twisted.__version__}", *(version for version, _ in measured))
    print("\n\n".join([where, *(text for _, text in measured)]))


if __name__ == "__main__":
    main()
