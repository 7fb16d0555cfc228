"""The tables of the identity server."""
