"""The process that opens strangers' pictures: what it makes of them, and they of it (MEDIA-1)."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import pictures
from tests.support.pictures import CORPUS, MIB, Sample, drawing, encoded, photo
from tests.support.server import ROOT

PROGRAM = ROOT / "synapse_like" / "handlers" / "thumbnail_process.py"

RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 160, 60)


@dataclass
class Outcome:
    """What came of a picture."""

    told: dict[str, Any]
    data: bytes
    signal: int

    @property
    def fate(self) -> str:
        """As in the corpus; a process that was ended had too much to do."""
        return "too-large" if self.signal else str(self.told.get("fault", "fine"))

    @property
    def picture(self) -> Image.Image:
        return Image.open(BytesIO(self.data))


def smaller(
    data: bytes,
    width: int = 320,
    height: int = 240,
    method: str = "scale",
    *,
    pixels: int = 50_000_000,
    memory: int = 768 * MIB,
    seconds: int = 2,
) -> Outcome:
    """Have a smaller picture made."""
    numbers = [str(number) for number in (width, height, pixels, memory, seconds)]
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(data)
        source.seek(0)
        process = subprocess.run(
            [sys.executable, "-I", PROGRAM, method, *numbers],
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            env={},
            timeout=60,
            check=False,
        )
        target.seek(0)
        told = json.loads(process.stderr) if process.returncode == 0 else {}
        return Outcome(told, target.read(), max(0, -process.returncode))


def is_like(pixel: Any, colour: tuple[int, int, int]) -> bool:
    return all(abs(one - other) < 40 for one, other in zip(pixel[:3], colour, strict=True))


@pytest.mark.parametrize("sample", CORPUS, ids=lambda sample: sample.name)
def test_each_picture_of_the_corpus_meets_its_fate(sample: Sample) -> None:
    """MEDIA-1, SEC-1."""
    outcome = smaller(sample.data)
    assert outcome.fate == sample.fate, outcome.told
    if sample.fate == "fine":
        picture = outcome.picture
        picture.load()
        assert picture.size == (outcome.told["width"], outcome.told["height"])
        assert picture.width <= 320
        assert picture.height <= 240
        assert pictures.SCRIPT not in outcome.data
        assert not picture.getexif()
        assert not getattr(picture, "is_animated", False)
    else:
        assert outcome.data == b""
        assert outcome.signal or outcome.told["message"]


def test_scaled_picture_fits_and_keeps_its_proportions() -> None:
    outcome = smaller(photo(1200, 800))
    assert outcome.picture.size == (320, 213)
    assert outcome.told["mimetype"] == "image/jpeg"
    assert is_like(outcome.picture.getpixel((5, 5)), RED)
    assert is_like(outcome.picture.getpixel((315, 208)), BLUE)


def test_cropped_picture_fills_what_was_asked_for_with_its_middle() -> None:
    outcome = smaller(photo(1200, 800), 96, 96, "crop")
    assert outcome.picture.size == (96, 96)
    assert is_like(outcome.picture.getpixel((48, 48)), GREEN)
    # The corners lie a sixth of the width further in, but still on the coloured quarters.
    assert is_like(outcome.picture.getpixel((2, 2)), RED)


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (5, 5)), (3, (-5, -5)), (6, (-5, 5)), (8, (5, -5))],
)
@pytest.mark.parametrize("method", ["scale", "crop"])
def test_picture_is_turned_the_way_the_camera_was_held(orientation: int, corner: tuple[int, int], method: str) -> None:
    """The red corner is where one who held the camera so has seen it."""
    outcome = smaller(photo(1200, 800, orientation), 120, 120, method)
    picture = outcome.picture
    if method == "scale":
        assert picture.size == ((80, 120) if orientation in (6, 8) else (120, 80))
    else:
        assert picture.size == (120, 120)
    at = tuple(value % side for value, side in zip(corner, picture.size, strict=True))
    assert is_like(picture.getpixel(at), RED)


def test_where_a_picture_was_taken_is_not_passed_on() -> None:
    assert b"Camera of somebody" in photo()
    assert b"Camera of somebody" not in smaller(photo()).data


def test_what_shines_through_still_does() -> None:
    outcome = smaller(encoded(drawing(400, 300, "RGBA"), "PNG"))
    assert outcome.told["mimetype"] == "image/png"
    assert outcome.picture.getpixel((200, 10))[3] == 0
    assert is_like(outcome.picture.getpixel((5, 5)), RED)


def test_animation_becomes_its_first_picture() -> None:
    outcome = smaller(pictures.animation("GIF", 10), 32, 32)
    assert outcome.picture.size == (32, 32)
    assert outcome.picture.convert("RGB").getpixel((16, 16))[2] < 20


@pytest.mark.parametrize(("method", "size"), [("scale", (20, 10)), ("crop", (13, 10))])
def test_small_picture_is_not_made_larger(method: str, size: tuple[int, int]) -> None:
    assert smaller(encoded(drawing(20, 10), "PNG"), 640, 480, method).picture.size == size


def test_too_little_memory_is_told_and_not_exceeded() -> None:
    data = pictures.png_of_all_pixels_allowed()
    assert smaller(data, seconds=10).fate == "fine"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    outcome = smaller(data, memory=256 * MIB)
    assert outcome.fate == "too-large"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss == before


def test_too_many_pixels_are_told() -> None:
    outcome = smaller(photo(1000, 1000), pixels=999_999)
    assert outcome.told == {"fault": "too-large", "message": "The picture has more than 999999 pixels."}


def test_full_disk_is_not_the_pictures_fault() -> None:
    with tempfile.TemporaryFile() as source, Path("/dev/full").open("wb") as full:
        source.write(photo())
        source.seek(0)
        command = [sys.executable, "-I", PROGRAM, "scale", "320", "240", "50000000", str(768 * MIB), "2"]
        process = subprocess.run(command, stdin=source, stdout=full, stderr=subprocess.PIPE, timeout=60, check=True)
    assert json.loads(process.stderr)["fault"] == "no-room"


def test_it_opens_nothing_and_starts_nothing(tmp_path: Path) -> None:
    """SEC-1: a picture that has taken it over finds nothing to do."""
    script = tmp_path / "taken_over.py"
    script.write_text(
        "import importlib.util, os, sys\n"
        f"spec = importlib.util.spec_from_file_location('program', {str(PROGRAM)!r})\n"
        "program = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(program)\n"
        "program.take_leave(768 << 20, 2)\n"
        "for attempt in (lambda: os.open('/etc/passwd', os.O_RDONLY), os.pipe, lambda: os.open('new', os.O_CREAT)):\n"
        "    try:\n"
        "        attempt()\n"
        "    except OSError as error:\n"
        "        sys.stdout.write(f'{error.errno} ')\n"
        "sys.stdout.flush()\n"
    )
    done = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "24 24 24 ", done.stderr
