"""Programs that some tests need, and that are not there everywhere."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

Found = TypeVar("Found")


def needed(found: Found | None, name: str, how_to_install: str) -> Found:
    """What was found; without it, the test is skipped, or fails if the environment says that it must be there.

    :param name: of the variable that says so, after `SYNAPSE_LIKE_REQUIRE_`; it does by `1`.
    """
    if found is None:
        if os.environ.get(f"SYNAPSE_LIKE_REQUIRE_{name}") == "1":
            pytest.fail(how_to_install)
        pytest.skip(how_to_install)
    return found
