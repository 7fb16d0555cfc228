"""The kinds of values that settings have, and what settings are made of."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar
from urllib.parse import urlsplit

from msgspec import Meta

from synapse_like.models import Checked, Given, InFolder, Model
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.identifiers import parse_server_name


def _in_folder(path: Path, folder: Path) -> Path:
    return folder / path


def _server_name(text: str) -> str:
    try:
        return parse_server_name(text)
    except MatrixError as error:
        raise ValueError(error.message) from error


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::") from error


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError("must be an IP address or network, such as 127.0.0.1 or 10.0.0.0/8") from error


def url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL, such as https://matrix.example.org")
    return text


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Item = TypeVar("Item")
# A list may be given as text with commas, too: the environment has no lists.
ListOf = Annotated[tuple[Item, ...], Given(_split)]
OneOrMore = Annotated[ListOf[Item], Meta(min_length=1)]
FilePath = Annotated[Path, InFolder(_in_folder)]
ServerName = Annotated[str, Checked(_server_name)]
Address = Annotated[str, Checked(_address)]
Network = Annotated[str, Checked(_network)]
Url = Annotated[str, Checked(url)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=1)]
"""At least one."""
Amount = Annotated[float, Meta(gt=0)]
"""More than nothing."""


class Settings(Model, frozen=True):
    """A mapping whose keys are all known. The text under each key is its help."""

    def __repr__(self) -> str:
        # Some are secrets.
        return f"<{type(self).__name__}>"


class Section(Settings, frozen=True):
    """Settings under a heading, each of which may be left out, and which is null if all are commented out."""

    null_is_empty: ClassVar[bool] = True
