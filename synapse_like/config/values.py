"""The kinds of values that settings have, and what settings are made of."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    model_validator,
)

from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.identifiers import parse_server_name


def folder_of(info: ValidationInfo) -> Path:
    """The folder of the file that is being read."""
    folder: Path = (info.context or {}).get("folder", Path())
    return folder.absolute()


def _in_folder(path: Path, info: ValidationInfo) -> Path:
    return folder_of(info) / path


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
# YAML has no tuples and no paths, so that these two are not strict about what they are made of. A list may be
# given as text with commas, too: the environment has no lists.
ListOf = Annotated[tuple[Item, ...], Strict(False), BeforeValidator(_split)]
OneOrMore = Annotated[ListOf[Item], Field(min_length=1)]
FilePath = Annotated[Path, Strict(False), AfterValidator(_in_folder)]
ServerName = Annotated[str, AfterValidator(_server_name)]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Url = Annotated[str, AfterValidator(url)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """A mapping whose keys are all known. The text under each key is its help.

    What checks settings is built when a file is read, once for the whole of it (`defer_build`). So the default of a
    heading is a `default_factory`: only for a heading that the file lacks is anything built apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, defer_build=True)


class Section(Settings):
    """Settings under a heading, each of which may be left out."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, settings: Any) -> Any:
        # A heading under which everything is commented out has the value null.
        return {} if settings is None else settings
