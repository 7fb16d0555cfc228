"""Asking what a function objects to."""

from collections.abc import Callable

from synapse_like.protocol.errors import MatrixError


def refusal_of(function: Callable[..., object], *args: object) -> MatrixError | None:
    """The MatrixError that a call raises; None if it raises nothing. Any other exception passes."""
    try:
        function(*args)
    except MatrixError as error:
        return error
    return None
