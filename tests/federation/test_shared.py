"""Work that several want at the same time, done once."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from synapse_like.federation.sharing import Shared


@pytest.mark.parametrize("is_well", [True, False])
def test_who_waits_has_what_comes_of_it_for_the_first_and_the_next_one_begins_anew(is_well: bool) -> None:
    begun: list[Deferred[str]] = []

    async def work(_: str) -> str:
        begun.append(Deferred())
        return await begun[-1]

    shared = Shared(work)
    outcomes: list[Any] = []
    for _ in range(2):
        Deferred.fromCoroutine(shared.do("key")).addBoth(outcomes.append)
    assert len(begun) == 1
    if is_well:
        begun[0].callback("done")
        assert outcomes == ["done", "done"]
    else:
        begun[0].errback(ValueError("no"))
        assert [outcome.type for outcome in outcomes] == [ValueError, ValueError]
    Deferred.fromCoroutine(shared.do("key")).addBoth(outcomes.append)
    assert len(begun) == 2
    begun[1].callback("again")
    assert outcomes[2] == "again"
