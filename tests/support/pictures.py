"""Pictures, honest and hostile, made anew each time.

    python -m tests.support.pictures FOLDER

writes them all into a folder. `CORPUS` tells of each what it is sent as and what is to become of it: a smaller picture
(`fine`), or one of the faults of `thumbnail_process.py`.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

Fate = Literal["fine", "broken", "too-large"]

MIB = 1024 * 1024
SCRIPT = b"<script>alert(document.domain)</script>"


@dataclass(frozen=True)
class Sample:
    """One picture, or what pretends to be one.

    :ivar mimetype: what it is sent as.
    :ivar make: makes its bytes.
    :ivar fate: what is to become of it.
    """

    name: str
    mimetype: str
    make: Callable[[], bytes]
    fate: Fate

    @property
    def data(self) -> bytes:
        return _made(self)


@cache
def _made(sample: Sample) -> bytes:
    return sample.make()


# Honest ones.


def drawing(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Something to look at: a red corner at the top left, a blue one at the bottom right, a circle in between."""
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0) if mode == "RGBA" else (240, 240, 240, 255))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, width // 4, height // 4), fill=(220, 30, 30, 255))
    pen.rectangle((width - width // 4, height - height // 4, width, height), fill=(30, 30, 220, 255))
    pen.ellipse((width // 3, height // 3, width - width // 3, height - height // 3), fill=(30, 160, 60, 255))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as a file."""
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def photo(width: int = 1200, height: int = 800, orientation: int = 1) -> bytes:
    """A JPEG as from a camera, which tells how it was held, and where."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera of somebody"
    exif.get_ifd(0x8825)[1] = "N"
    return encoded(drawing(width, height), "JPEG", exif=exif)


def noise(width: int, height: int, seed: int = 1) -> bytes:
    """A PNG that can hardly be compressed."""
    data = Random(seed).randbytes(width * height * 3)
    return encoded(Image.frombytes("RGB", (width, height), data), "PNG", compress_level=0)


def animation(kind: str, frames: int, side: int = 64) -> bytes:
    """Frames that differ."""
    images = [Image.new("RGB", (side, side), (n * 7 % 256, n * 3 % 256, n % 256)) for n in range(frames)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], duration=20, loop=0)


# Hostile ones.


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, depth: int = 1, colour: int = 0) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IEND", b"")


def zeros_deflated(size: int) -> bytes:
    """Many zeros, compressed a thousand times."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(MIB)) for _ in range(size // MIB)]
    parts.append(packer.compress(bytes(size % MIB)))
    return b"".join([*parts, packer.flush()])


def png_bomb() -> bytes:
    """30000 by 30000 pixels in some hundred kilobytes."""
    rows = 30_000 * (1 + 30_000 // 8)
    return _png(30_000, 30_000, _chunk(b"IDAT", zeros_deflated(rows)))


def png_that_inflates() -> bytes:
    """Ten by ten pixels, and half a gigabyte behind them."""
    return _png(10, 10, _chunk(b"IDAT", zeros_deflated(512 * MIB)), depth=8)


def png_with_text_bomb() -> bytes:
    """A picture with half a gigabyte of text in it."""
    text = b"Comment\0\0" + zeros_deflated(512 * MIB)
    rows = zlib.compress(bytes(10 * 11))
    return _png(10, 10, _chunk(b"zTXt", text), _chunk(b"IDAT", rows), depth=8)


def png_with_profile_bomb() -> bytes:
    """A picture with half a gigabyte of colour profile in it."""
    profile = b"p\0\0" + zeros_deflated(512 * MIB)
    rows = zlib.compress(bytes(10 * 11))
    return _png(10, 10, _chunk(b"iCCP", profile), _chunk(b"IDAT", rows), depth=8)


def png_of_all_pixels_allowed() -> bytes:
    """Just under what is allowed, and costly to hold."""
    row = 1 + 7000 * 8
    return _png(7000, 7000, _chunk(b"IDAT", zeros_deflated(7000 * row)), depth=16, colour=6)


def gif_bomb() -> bytes:
    """A screen of 65535 by 65535, and a frame as large."""
    return _gif(65535, 65535, 65535, 65535)


def gif_frame_beyond_its_screen() -> bytes:
    """A screen of ten by ten, and a frame of 65535 by 65535 on it."""
    return _gif(10, 10, 65535, 65535)


def _gif(width: int, height: int, frame_width: int, frame_height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0)
    return screen + frame + b"\x02\x02\x44\x01\x00;"


def webp_bomb() -> bytes:
    """A lossless WebP that claims 16384 by 16384 pixels."""
    bits = (16383) | (16383 << 14)
    frame = b"\x2f" + struct.pack("<I", bits) + bytes(40)
    body = b"WEBPVP8L" + struct.pack("<I", len(frame)) + frame + (b"\0" if len(frame) % 2 else b"")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas_bomb() -> bytes:
    """An animated WebP whose canvas is 16384 by 16384."""
    small = encoded(drawing(8, 8), "WEBP", lossless=True)[12:]
    size = (16383).to_bytes(3, "little")
    head = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size + size
    body = b"WEBP" + head + small
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_bomb() -> bytes:
    """60000 by 60000 pixels, said to be packed."""
    tags = [(256, 60_000), (257, 60_000), (258, 8), (259, 32773), (262, 1), (273, 8), (277, 1), (278, 60_000), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 12) + b"\x81\0\x81\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg_of_giant_size() -> bytes:
    """A JPEG whose header says 65500 by 65500."""
    data = bytearray(encoded(drawing(64, 64), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def jpeg_of_many_scans(scans: int = 8000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: little to send, much to decode."""
    data = encoded(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    return data[:-2] + scan * scans + b"\xff\xd9"


def exif_that_loops() -> bytes:
    """EXIF whose directory leads back to itself and counts two thousand million values."""
    entries = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x0112, 3, 0x7FFFFFFF, 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + entries + struct.pack("<I", 8)
    return encoded(drawing(80, 60), "JPEG", exif=exif)


def many_frames(count: int = 5000) -> bytes:
    """A GIF of thousands of frames, each written by hand."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 50, 50, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    whole = encoded(Image.new("P", (50, 50), 1), "GIF")
    at = whole.index(b",")
    return screen + whole[at:-1] * count + b";"


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def svg_with_script() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">' + SCRIPT + b"</svg>"


def html() -> bytes:
    return b"<!DOCTYPE html><html><body>" + SCRIPT + b"</body></html>"


def postscript() -> bytes:
    """What some would hand to an interpreter of PostScript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file pop\n%%EOF\n"


CORPUS = [
    Sample("photo", "image/jpeg", photo, "fine"),
    Sample("photo-held-sideways", "image/jpeg", lambda: photo(orientation=6), "fine"),
    Sample("grey", "image/jpeg", lambda: encoded(drawing(300, 200, "L"), "JPEG"), "fine"),
    Sample("for-print", "image/jpeg", lambda: encoded(drawing(300, 200, "CMYK"), "JPEG"), "fine"),
    Sample("transparent", "image/png", lambda: encoded(drawing(400, 300, "RGBA"), "PNG"), "fine"),
    Sample("palette", "image/png", lambda: encoded(drawing(400, 300).convert("P"), "PNG"), "fine"),
    Sample("one-bit", "image/png", lambda: encoded(drawing(400, 300, "1"), "PNG"), "fine"),
    Sample("sixteen-bits", "image/png", lambda: encoded(Image.new("I;16", (400, 300), 40_000), "PNG"), "fine"),
    Sample("one-pixel", "image/png", lambda: encoded(drawing(1, 1), "PNG"), "fine"),
    Sample("very-wide", "image/png", lambda: encoded(drawing(20_000, 2), "PNG"), "fine"),
    Sample("webp", "image/webp", lambda: encoded(drawing(400, 300), "WEBP"), "fine"),
    Sample("animated-gif", "image/gif", lambda: animation("GIF", 10), "fine"),
    Sample("animated-webp", "image/webp", lambda: animation("WEBP", 10), "fine"),
    Sample("animated-png", "image/png", lambda: animation("PNG", 10), "fine"),
    Sample("thousands-of-frames", "image/gif", many_frames, "fine"),
    Sample("other-type-than-said", "image/jpeg", lambda: encoded(drawing(64, 64), "PNG"), "fine"),
    Sample("gif-and-script", "image/gif", lambda: encoded(drawing(64, 64), "GIF") + b"/*" + SCRIPT + b"*/", "fine"),
    Sample("jpeg-and-page", "image/jpeg", lambda: encoded(drawing(64, 64), "JPEG", comment=SCRIPT) + html(), "fine"),
    Sample("png-and-archive", "image/png", lambda: encoded(drawing(64, 64), "PNG") + b"PK\x03\x04" + SCRIPT, "fine"),
    Sample("exif-that-loops", "image/jpeg", exif_that_loops, "fine"),
    Sample("png-that-inflates", "image/png", png_that_inflates, "fine"),
    Sample("png-bomb", "image/png", png_bomb, "too-large"),
    Sample("gif-bomb", "image/gif", gif_bomb, "too-large"),
    Sample("gif-frame-beyond-its-screen", "image/gif", gif_frame_beyond_its_screen, "too-large"),
    Sample("webp-bomb", "image/webp", webp_bomb, "too-large"),
    Sample("webp-canvas-bomb", "image/webp", webp_canvas_bomb, "too-large"),
    Sample("jpeg-of-giant-size", "image/jpeg", jpeg_of_giant_size, "too-large"),
    Sample("jpeg-of-many-scans", "image/jpeg", jpeg_of_many_scans, "too-large"),
    Sample("tiff-bomb", "image/tiff", tiff_bomb, "broken"),
    Sample("tiff-as-png", "image/png", tiff_bomb, "broken"),
    Sample("png-with-text-bomb", "image/png", png_with_text_bomb, "broken"),
    Sample("png-with-profile-bomb", "image/png", png_with_profile_bomb, "broken"),
    Sample("png-without-size", "image/png", lambda: _png(0, 0, _chunk(b"IDAT", b"")), "broken"),
    Sample("half-a-jpeg", "image/jpeg", lambda: _half(photo()), "broken"),
    Sample("half-a-png", "image/png", lambda: _half(noise(100, 100)), "broken"),
    Sample("half-a-gif", "image/gif", lambda: _half(encoded(drawing(300, 300), "GIF")), "broken"),
    Sample("half-a-webp", "image/webp", lambda: _half(encoded(drawing(300, 300), "WEBP")), "broken"),
    Sample("noise", "image/png", lambda: Random(7).randbytes(10_000), "broken"),
    Sample("nothing", "image/png", lambda: b"", "broken"),
    Sample("magic-alone", "image/png", lambda: b"\x89PNG\r\n\x1a\n", "broken"),
    Sample("wrong-magic", "image/png", lambda: b"\x00" + encoded(drawing(64, 64), "PNG")[1:], "broken"),
    Sample("svg-with-script", "image/svg+xml", svg_with_script, "broken"),
    Sample("svg-as-png", "image/png", svg_with_script, "broken"),
    Sample("page-as-png", "image/png", html, "broken"),
    Sample("postscript-as-jpeg", "image/jpeg", postscript, "broken"),
]


def write_all(folder: Path) -> Iterator[Path]:
    """Write all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in CORPUS:
        path = folder / f"{sample.name}.{sample.mimetype.partition('/')[2].partition('+')[0]}"
        path.write_bytes(sample.data)
        yield path


if __name__ == "__main__":
    for written in write_all(Path(sys.argv[1])):
        sys.stdout.write(f"{written.stat().st_size:>12,}  {written}\n")
