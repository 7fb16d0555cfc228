"""Uploaded files."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from synapse_like.config.values import Amount, Count, FilePath, OneOrMore, Section
from synapse_like.models import Checked, Unfit


def _picture_size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", text, re.ASCII):
        raise ValueError("must be a width and a height, such as 320x240")
    return text


PictureSize = Annotated[str, Checked(_picture_size)]


class Content(Section, frozen=True):
    """Files that users upload, and copies of those of other servers. Sizes are in bytes, times in seconds."""

    directory: FilePath | None = None
    """Where they are kept. Left out: content/ in the data directory."""

    max_upload_size: Count = 50 * 1024 * 1024
    """Of one file."""

    upload_timeout: Amount = 600.0
    """How long an upload may take."""

    user_quota: Annotated[int, Meta(ge=0)] = 2 * 1024 * 1024 * 1024
    """Of all files together that one user has uploaded; 0 for any amount."""

    max_remote_size: Count = 50 * 1024 * 1024
    """Of one file of another server; larger ones cannot be seen here."""

    remote_cache_size: Count = 10 * 1024 * 1024 * 1024
    """Of all copies of other servers' files together, with the thumbnails of them. If there is more, those go that were
    used longest ago; when somebody wants them, they are fetched again. The file that has just come counts only after
    that: the disk needs room for some more."""

    remote_timeout: Amount = 120.0
    """How long another server may take to send one file."""

    thumbnail_sizes: OneOrMore[PictureSize] = ("32x32", "96x96", "320x240", "640x480", "800x600")
    """Widths and heights of the smaller pictures that are made of pictures: whoever wants another size gets the next
    larger one."""

    dynamic_thumbnails: bool = False
    """Whether every size is made that somebody wants, and the list above is ignored."""

    thumbnail_processes: Annotated[int, Meta(ge=1, le=64)] = 2
    """How many pictures are worked on at the same time, each in a process of its own."""

    max_image_pixels: Count = 50_000_000
    """Width times height of a picture; of larger ones no smaller ones are made."""

    thumbnail_memory: Annotated[int, Meta(ge=128 * 1024 * 1024)] = 768 * 1024 * 1024
    """What such a process may have. It needs some eight bytes for each pixel, and 128 MiB for itself."""

    thumbnail_cpu_time: Count = 10
    """Processor time that it may use."""

    thumbnail_timeout: Amount = 30.0
    """How long it may take."""

    def __post_init__(self) -> None:
        if self.remote_cache_size < self.max_remote_size:
            raise Unfit("remote_cache_size", "must not be smaller than max_remote_size")

    @property
    def made_sizes(self) -> list[tuple[int, int]]:
        """Widths and heights of the thumbnails that are made; none for any."""
        if self.dynamic_thumbnails:
            return []
        return [
            (int(width), int(height)) for width, _, height in (size.partition("x") for size in self.thumbnail_sizes)
        ]
