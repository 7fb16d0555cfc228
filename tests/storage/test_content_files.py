"""The files of the content repository: written wholly or not at all, marked while they are in doubt (MEDIA-1)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from synapse_like.storage.content_files import ContentFolder

DATA = b"some bytes"
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"others").hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> ContentFolder:
    return ContentFolder(tmp_path / "content")


def put(folder: ContentFolder, data: bytes = DATA) -> str:
    file = folder.new_file()
    file.write(data)
    sha256 = file.finish()
    held = folder.hold([sha256])
    assert held is not None
    folder.put(file, sha256)
    held.release()
    return sha256


def test_file_lies_under_its_hash_for_its_owner_alone(folder: ContentFolder, tmp_path: Path) -> None:
    assert put(folder) == SHA256
    path = tmp_path / "content" / SHA256[:2] / SHA256[2:]
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o600
    folders = [tmp_path / "content", *(tmp_path / "content").iterdir()]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert folder.sizes(SHA256[:2]) == {SHA256: len(DATA)}
    assert (folder.marks(), folder.unfinished()) == ([], 0)


def test_same_bytes_are_there_once(folder: ContentFolder) -> None:
    put(folder)
    put(folder)
    assert folder.sizes(SHA256[:2]) == {SHA256: len(DATA)}
    assert folder.unfinished() == 0


def test_file_that_is_open_can_be_read_after_it_was_removed(folder: ContentFolder) -> None:
    put(folder)
    descriptor = folder.open(SHA256)
    assert folder.remove([SHA256, OTHER]) == 1
    assert os.pread(descriptor, 100, 0) == DATA
    os.close(descriptor)
    with pytest.raises(FileNotFoundError):
        folder.open(SHA256)


def test_what_another_process_has_written_is_measured(folder: ContentFolder) -> None:
    file = folder.new_file()
    os.write(file.fileno(), DATA)
    file.measure()
    assert (file.size, file.finish()) == (len(DATA), SHA256)
    file.discard()
    assert folder.unfinished() == 0


def test_only_one_holds_a_hash(folder: ContentFolder) -> None:
    held = folder.hold([SHA256])
    assert held is not None
    assert folder.hold([OTHER, SHA256]) is None
    assert folder.marks() == [SHA256], "all or none are held"
    held.release()
    assert folder.marks() == []
    again = folder.hold([OTHER, SHA256])
    assert again is not None
    assert again.hashes == {OTHER, SHA256}
    again.leave()
    assert folder.marks() == sorted([OTHER, SHA256])


def test_giving_back_changes_no_mark(folder: ContentFolder) -> None:
    first = folder.hold([SHA256])
    assert first is not None
    first.leave()
    second = folder.hold([SHA256, OTHER])
    assert second is not None
    second.give_back()
    assert folder.marks() == [SHA256]


def test_files_that_are_being_written_are_not_cleared_away(folder: ContentFolder, tmp_path: Path) -> None:
    written = folder.new_file()
    left_behind = tmp_path / "content" / "incoming" / "left"
    left_behind.write_bytes(b"half")
    assert folder.unfinished() == 2
    assert folder.forget_unfinished() == 1
    assert not left_behind.exists()
    assert folder.unfinished() == 1
    written.discard()
    assert folder.forget_unfinished() == 0


def test_nothing_is_there_before_the_first_file(folder: ContentFolder) -> None:
    assert (folder.marks(), folder.sizes("00"), folder.unfinished()) == ([], {}, 0)
    assert folder.forget_unfinished() == 0


def test_a_few_uploads_of_a_user_at_a_time_whichever_process_takes_them(folder: ContentFolder, tmp_path: Path) -> None:
    """MEDIA-1: and what is left of a process that has died is no upload."""
    elsewhere = ContentFolder(tmp_path / "content")
    one, two = folder.turn("@alice:here", 2), elsewhere.turn("@alice:here", 2)
    assert one is not None
    assert two is not None
    assert folder.turn("@alice:here", 2) is elsewhere.turn("@alice:here", 2) is None
    other = folder.turn("@bob:here", 2)
    assert other is not None
    two.leave()
    names = set((tmp_path / "content" / "uploading").iterdir())
    folder.forget_turns()
    assert len(names - set((tmp_path / "content" / "uploading").iterdir())) == 1
    again = folder.turn("@alice:here", 2)
    assert again is not None
    assert elsewhere.turn("@alice:here", 2) is None
    for turn in (one, again, other):
        turn.release()
    assert not any((tmp_path / "content" / "uploading").iterdir())
