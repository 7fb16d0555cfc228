"""Secrets that this server gives out - access tokens, sessions, links in mails - are stored as hashes only."""

from __future__ import annotations

from hashlib import sha256


def stored_form(secret: str) -> bytes:
    """What a secret is stored as. It is random, so a plain hash is enough."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
