"""The program that makes a smaller picture of a picture from a stranger, in a process of its own.

    python -I thumbnail_process.py METHOD WIDTH HEIGHT PIXELS MEMORY SECONDS

reads the picture from standard input, which is a file, writes the smaller one to standard output, which is an empty
file, and says on standard error, in one line of JSON, what it has made or what was the matter. Before it looks at a
byte of the picture it takes leave of everything it will not need: more memory, more time, other files, other processes.
It knows nothing of the rest of this package.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import warnings
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

#: The kinds of pictures that are read. Each is a parser that strangers get at, so that these are few.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
#: Bytes of the smaller picture at the most.
MOST_OUTPUT = 16 * 1024 * 1024
QUALITY = 82
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class Unfit(Exception):
    """There is no smaller picture of this. Its arguments: the kind of fault, and a sentence about it."""


def take_leave(memory: int, seconds: int) -> None:
    """Give up what is not needed.

    :param memory: bytes of address space that this process may have.
    :param seconds: of processor time.
    """
    os.nice(10)
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: MOST_OUTPUT,
        resource.RLIMIT_CORE: 0,
        # Nothing can be opened any more, nor can anything be started.
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # It ends with the server.
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def rehearse() -> None:
    """Have all loaded that will be needed: Pillow loads some of it when it is first used, which is then too late."""
    Image.init()
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in FORMATS:
        file = BytesIO()
        images[0].save(file, kind, **({} if kind == "JPEG" else {"save_all": True, "append_images": images[1:]}))
        with Image.open(file, formats=FORMATS) as picture:
            _smaller(picture, "crop", 2, 2)


def make(method: str, width: int, height: int, most_pixels: int) -> dict[str, Any]:
    """Read, make smaller, write; what was made.

    :raises Unfit: the picture is broken, or too large, or none.
    """
    try:
        with open(0, "rb", closefd=False) as file, Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > most_pixels:
                raise Unfit("too-large", f"The picture has more than {most_pixels} pixels.")
            small = _smaller(picture, method, width, height)
    except UnidentifiedImageError as error:
        raise Unfit("broken", "This is not a picture of a kind that this server can make smaller.") from error
    except Image.DecompressionBombError as error:
        raise Unfit("too-large", f"The picture has more than {most_pixels} pixels.") from error
    has_alpha = small.mode == "RGBA"
    with open(1, "wb", closefd=False) as target:
        if has_alpha:
            small.save(target, "PNG")
        else:
            small.save(target, "JPEG", quality=QUALITY, progressive=True)
    return {
        "width": small.width,
        "height": small.height,
        "mimetype": "image/png" if has_alpha else "image/jpeg",
    }


def _smaller(picture: Any, method: str, width: int, height: int) -> Any:
    """A smaller picture, the right way up, of the first image if there are several; never a larger one."""
    if picture.format == "JPEG":
        # Decodes at a fraction of the size, still larger than wanted whichever way it will be turned.
        side = 2 * max(width, height)
        shorter = min(picture.size)
        scale = side / shorter if method == "crop" else side / max(picture.size)
        if scale < 1:
            picture.draft("RGB", (int(picture.width * scale), int(picture.height * scale)))
    picture.load()
    has_alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    mode = "RGBA" if has_alpha else "RGB"
    frame = picture if picture.mode == mode else picture.convert(mode)
    orientation = picture.getexif().get(0x0112, 1)
    turned = orientation in (5, 6, 7, 8)
    box = (height, width) if turned else (width, height)
    if method == "crop":
        frame = _cropped(frame, *box)
    else:
        frame.thumbnail(_box_within(frame.size, box), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if orientation != 1:
        frame.getexif()[0x0112] = orientation
        frame = ImageOps.exif_transpose(frame)
    # What else the file said of its picture, where it was taken for instance, is nobody's business.
    clean = Image.new(frame.mode, frame.size)
    clean.paste(frame)
    return clean


def _box_within(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    return min(size[0], box[0]), min(size[1], box[1])


def _cropped(frame: Any, width: int, height: int) -> Any:
    """The middle of a picture, in the wanted proportions."""
    scale = min(frame.width / width, frame.height / height)
    part = (max(1, min(frame.width, round(width * scale))), max(1, min(frame.height, round(height * scale))))
    left, top = (frame.width - part[0]) // 2, (frame.height - part[1]) // 2
    wanted = (min(width, part[0]), min(height, part[1]))
    return frame.resize(
        wanted, Image.Resampling.LANCZOS, box=(left, top, left + part[0], top + part[1]), reducing_gap=3.0
    )


def main(arguments: list[str]) -> dict[str, Any]:
    """What is said on standard error."""
    method, width, height, most_pixels, memory, seconds = arguments[0], *map(int, arguments[1:])
    rehearse()
    # Of Pillow's own limits this one stops at the announced size, before anything is allocated.
    Image.MAX_IMAGE_PIXELS = most_pixels
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    take_leave(memory, seconds)
    try:
        return make(method, width, height, most_pixels)
    except Unfit as error:
        return {"fault": error.args[0], "message": error.args[1]}
    except Image.DecompressionBombWarning:
        return {"fault": "too-large", "message": f"The picture has more than {most_pixels} pixels."}
    except MemoryError:
        return {"fault": "too-large", "message": "The picture takes more memory than it may."}
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"fault": "no-room", "message": "There is no room for the smaller picture."}
        # Whatever a decoder raises, the picture is at fault; the reason is for the log.
        return {"fault": "broken", "message": "The picture is broken.", "reason": repr(error)[:200]}


if __name__ == "__main__":
    sys.stderr.write(json.dumps(main(sys.argv[1:])) + "\n")
    sys.stderr.flush()
    os._exit(0)
