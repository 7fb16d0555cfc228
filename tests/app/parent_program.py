"""A parent whose children are no servers, and tell on standard output what becomes of them; for `test_parent.py`.

    python -m tests.app.parent_program FOLDER PORT DOES COUNT STOP_SECONDS

DOES is JSON: what children do by their numbers, `fail`, `fail later` (but not the first time), `break`, `hang` (but
only the first time) or `stay`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path

from msgspec import field

from synapse_like import logs
from synapse_like.app import parent
from synapse_like.app.child import Child
from synapse_like.app.errors import StartError
from synapse_like.app.parent import Parent
from synapse_like.config import load


def tell(line: str) -> None:
    # At once, and whole, beside those of the others.
    os.write(1, (line + "\n").encode())


class ParentOfNobody(Parent):
    """Its children serve nothing."""

    does: dict[str, str] = field(default_factory=dict)

    def _load(self) -> None:
        pass

    def _serve(self, child: Child) -> int:
        tell(f"born {child.number} {os.getpid()}")
        does = self.does.get(str(child.number))
        if does == "fail":
            raise StartError("there is no key")
        if does == "fail later":
            mark = self.path.with_name(f"child-{child.number}")
            if mark.exists():
                raise StartError("the key is gone")
            mark.touch()
        if does == "break":
            raise RuntimeError("a fault of the program")
        if child.newer is not None:
            tell(f"newer {child.number}")
        stop, told = os.pipe()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if does == "stay" else lambda *_: os.write(told, b"."))
        signal.signal(signal.SIGHUP, lambda *_: tell(f"hangup {child.number}"))
        child.tell("it listens")
        tell(f"ready {child.number}")
        child.serves()
        if does == "hang":
            mark = self.path.with_name(f"child-{child.number}")
            child.beat()
            while mark.exists() and not select.select([stop, self._life[0]], [], [], 0.1)[0]:
                child.beat()
            mark.touch()
        ready, _, _ = select.select([stop, self._life[0]], [], [])
        if stop not in ready:
            tell(f"orphan {child.number}")
        return 0


def main(folder: str, port: str, does: str, count: str, stop_seconds: str) -> int:
    path = Path(folder) / "homeserver.yaml"
    path.write_text(
        f"server_name: localhost\nprocesses: {count}\ndatabase: {{url: 'postgresql://localhost/none'}}\n"
        f"client: {{port: {port}}}\nfederation: {{enabled: false}}\n"
    )
    parent.STOP_SECONDS = float(stop_seconds)
    # Those who never show that they serve are not meant.
    parent.LOOK_SECONDS, parent.HANG_SECONDS = 0.2, 2.0
    config = load(path, {})
    logs.configure()
    running = ParentOfNobody(config, path, tell)
    running.does = json.loads(does)
    try:
        return running.run()
    except StartError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
