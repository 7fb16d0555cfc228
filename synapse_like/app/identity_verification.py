"""Looking through everything an identity server keeps, and mending what is derived (`synapse_like identity verify`)."""

from __future__ import annotations

from synapse_like.app.identity import engine_of
from synapse_like.app.verifying import Result, Run, Tell, opened
from synapse_like.identity import verification
from synapse_like.identity.settings import IdentityConfig
from synapse_like.identity.verification import StatementVerification
from synapse_like.storage.connections import Connection
from synapse_like.storage.faults import Fault
from synapse_like.storage.identity import verification as stored
from synapse_like.storage.identity.verification import StatementKey
from synapse_like.storage.migrations import IDENTITY_SERVER
from synapse_like.storage.transactions import Transaction

#: Statements and invites that are looked at in one transaction.
BATCH = 500


def verify(config: IdentityConfig, *, repair: bool, report: Tell, tell: Tell) -> Result:
    """Look through everything.

    :param repair: mend what is derived; only while no server runs.
    :param report: is told each fault.
    :param tell: is told how far it is.
    :raises StartError: the database cannot be opened, or is in use and something was to be mended.
    """
    command = "synapse_like identity migrate"
    with opened(engine_of(config), IDENTITY_SERVER, command=command, repair=repair) as connection:
        run = _IdentityRun(config, connection, repair=repair, report=report, tell=tell)
        run.database()
        run.statements()
        run.hashes()
        run.invites()
        run.streams(stored.HIGHEST)
        return run.result


class _IdentityRun(Run):
    def __init__(
        self, config: IdentityConfig, connection: Connection, *, repair: bool, report: Tell, tell: Tell
    ) -> None:
        super().__init__(connection, repair=repair, kinds=("statements", "invites"), report=report, tell=tell)
        self._config = config

    def statements(self) -> None:
        """Everything that was said of addresses: what it says, and who signed it."""
        siblings = {sibling.name: sibling.verify_keys().values() for sibling in self._config.siblings}
        checking = StatementVerification(self._config.server_name, siblings)
        after, is_done = StatementKey(), False

        def look(txn: Transaction) -> None:
            nonlocal after, is_done
            checked = checking.check(txn, after, BATCH)
            self.result.looked_at["statements"] += checked.count
            self.result.unsigned += checked.unsigned
            for fault in checked.faults:
                self._found(fault)
            after, is_done = checked.up_to, not checked.count

        while not is_done:
            self._read(look)
            self._progress(f"{self.result.looked_at['statements']} statements")

    def hashes(self) -> None:
        """The hashes by which addresses are looked up."""
        found: list[Fault] = []
        self._read(lambda txn: found.extend(verification.check_hashes(txn)))
        for fault in found:
            self._found(fault)
        if found and self._repair:
            self._connection.transact(verification.mend_hashes)
            self._mended("hashes", len(found))

    def invites(self) -> None:
        """Invites that wait for the owner of an address, and what home servers are to be told of them."""
        after = ""
        while True:
            rows: list[stored.InviteRow] = []

            def look(txn: Transaction, after: str = after, rows: list[stored.InviteRow] = rows) -> None:
                rows += stored.invites_after(txn, after, BATCH)

            self._read(look)
            if not rows:
                break
            self.result.looked_at["invites"] += len(rows)
            for fault in verification.check_invites(rows):
                self._found(fault)
            after = rows[-1].token

        def notices(txn: Transaction) -> None:
            for fault in verification.check_notices(txn):
                self._found(fault)

        self._read(notices)
