"""The fuzzer of the protocol core: README.md tells how to run it."""

from __future__ import annotations

import json
import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["synapse_like.protocol"]):
    from synapse_like.protocol.canonical_json import decode
    from synapse_like.protocol.errors import MatrixError
    from tests.support.untrusted import read_input

from tests.fuzz.mutations import mutate


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """Another input, made from one: mostly by changing it as JSON, sometimes as bytes."""
    random = Random(seed)
    if random.random() < 0.8:
        try:
            value = decode(data[1:])
            for _ in range(random.randint(1, 3)):
                value = mutate(value, random)
            changed = data[:1] + json.dumps(value).encode()
        except (MatrixError, ValueError, RecursionError):
            # It is no JSON, or none any more.
            changed = b""
        if 0 < len(changed) <= max_size:
            return changed
    mutated: bytes = atheris.Mutate(data, max_size)
    return mutated


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_input, custom_mutator=change)
    atheris.Fuzz()
