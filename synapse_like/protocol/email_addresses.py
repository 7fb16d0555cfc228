"""E-mail addresses: read, checked, and brought to the one form we compare.

What mail systems of today take without asking for more: a local part and a domain of ASCII. Nobody gives two people
addresses that differ in case only, so they are compared without regard to it.
"""

import re

from synapse_like.protocol.errors import BadJson

MAX_ADDRESS_BYTES = 254
"""What fits into a path of SMTP (RFC 5321, 4.5.3.1.3)."""

_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ADDRESS = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@{_LABEL}(?:\.{_LABEL})*")
_LONGEST_LOCAL_PART = 64


def canonical_email(text: str) -> str:
    """An e-mail address in lower case.

    :raises BadJson: it is none.
    """
    address = text.strip().lower() if text.isascii() else ""
    match = _ADDRESS.fullmatch(address)
    if match is None or len(address) > MAX_ADDRESS_BYTES or len(match["local"]) > _LONGEST_LOCAL_PART:
        # repr() escapes what could not be sent in an answer.
        raise BadJson(f"{text[:64]!r} is not an e-mail address, such as alice@example.org.")
    return address
