"""Uploaded files."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from synapse_like.config.values import FilePath, ListOf, Section


def _picture_size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", text, re.ASCII):
        raise ValueError("must be a width and a height, such as 320x240")
    return text


PictureSize = Annotated[str, AfterValidator(_picture_size)]


class Content(Section):
    """Files that users upload, and copies of those of other servers. Sizes are in bytes, times in seconds."""

    directory: FilePath | None = None
    """Where they are kept. Left out: content/ in the data directory."""

    max_upload_size: PositiveInt = 50 * 1024 * 1024
    """Of one file."""

    upload_timeout: PositiveFloat = 600.0
    """How long an upload may take."""

    user_quota: int = Field(2 * 1024 * 1024 * 1024, ge=0)
    """Of all files together that one user has uploaded; 0 for any amount."""

    max_remote_size: PositiveInt = 50 * 1024 * 1024
    """Of one file of another server; larger ones cannot be seen here."""

    remote_cache_size: PositiveInt = 10 * 1024 * 1024 * 1024
    """Of all copies of other servers' files together, with the thumbnails of them. If there is more, those go that were
    used longest ago; when somebody wants them, they are fetched again. The file that has just come counts only after
    that: the disk needs room for some more."""

    remote_timeout: PositiveFloat = 120.0
    """How long another server may take to send one file."""

    thumbnail_sizes: ListOf[PictureSize] = ("32x32", "96x96", "320x240", "640x480", "800x600")
    """Widths and heights of the smaller pictures that are made of pictures: whoever wants another size gets the next
    larger one."""

    dynamic_thumbnails: bool = False
    """Whether every size is made that somebody wants, and the list above is ignored."""

    thumbnail_processes: int = Field(2, ge=1, le=64)
    """How many pictures are worked on at the same time, each in a process of its own."""

    max_image_pixels: PositiveInt = 50_000_000
    """Width times height of a picture; of larger ones no smaller ones are made."""

    thumbnail_memory: int = Field(768 * 1024 * 1024, ge=128 * 1024 * 1024)
    """What such a process may have. It needs some eight bytes for each pixel, and 128 MiB for itself."""

    thumbnail_cpu_time: PositiveInt = 10
    """Processor time that it may use."""

    thumbnail_timeout: PositiveFloat = 30.0
    """How long it may take."""

    @field_validator("remote_cache_size")
    @classmethod
    def _room_for_one(cls, size: int, info: ValidationInfo) -> int:
        if size < info.data.get("max_remote_size", 0):
            raise ValueError("must not be smaller than max_remote_size")
        return size

    @field_validator("thumbnail_sizes")
    @classmethod
    def _some_size(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        if not sizes:
            raise ValueError("must have at least one size")
        return sizes

    @property
    def made_sizes(self) -> list[tuple[int, int]]:
        """Widths and heights of the thumbnails that are made; none for any."""
        if self.dynamic_thumbnails:
            return []
        return [
            (int(width), int(height)) for width, _, height in (size.partition("x") for size in self.thumbnail_sizes)
        ]
