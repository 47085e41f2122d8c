"""What the image files hold, read once: size, digest, and a print of how the picture looks.

Reading every file takes minutes on a large data set, so the result is kept and used again. What is kept of a file
counts only while its size and its times of change (content and inode) are the same; a file that could not be read is
always tried again.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from util.base.console import Progress
from util.base.errors import MissingPackage
from util.base.files import write_whole
from util.base.threads import read_each
from util.images import UNREADABLE, huge_images_in_turn, read_image
from util.images.reader import file_size

MEMORY = "image_check.npz"
FORMAT = 1  # changes whenever the same file would give another record
NEWEST_RUNS = 8  # neighbours that are asked for what they know
THUMBNAIL = 64
FREQUENCIES = 16
# Pictures with at most this range of grey values show nothing.
BLANK_RANGE = 2


@dataclass(frozen=True)
class ImageFile:
    """A file that could be read as an image.

    `look` are the signs of the picture's 255 lowest spatial frequencies (a perceptual hash after Zauner, 2010): saving
    anew, scaling, a little more contrast or brightness change a few of them, another picture changes about half.
    """

    stamp: tuple[int, int, int]  # bytes, and times of the last change of content and inode, ns
    size: tuple[int, int]  # (height, width) pixels
    digest: bytes  # of the file, 16 bytes
    look: bytes  # 32 bytes
    is_blank: bool  # all pixels are alike


Known = dict[str, ImageFile]


def read_image_files(paths: Iterable[Path], known: Mapping[str, ImageFile]) -> dict[str, ImageFile | str]:
    """What each file holds, by absolute path; or, of one that is there and cannot be read, why.

    Files that are not there are left out, those that are `known` and unchanged are not read again.

    Raises:
        MissingPackage: a file is DICOM, and what reads it is not installed.
    """
    paths = [Path(os.path.abspath(path)) for path in paths]
    progress = Progress("reading the images", len(paths), "images")
    found: dict[str, ImageFile | str] = {}
    for results in read_each(lambda path: (path, _read(path, known.get(str(path)))), paths):
        found.update({str(path): file for path, file in results if file is not None})
        progress.advance(len(results))
    progress.close()
    return found


def _read(path: Path, known: ImageFile | None) -> ImageFile | str | None:
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if known is not None and known.stamp == stamp:
            return known
        return read_image_file(path, stamp)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except MissingPackage:  # the file is whole, and so may be all others of its kind
        raise
    except UnidentifiedImageError:
        return "no image" if stamp[0] else "empty"
    except UNREADABLE as error:
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def read_image_file(path: Path, stamp: tuple[int, int, int]) -> ImageFile:
    """Read one file to its end.

    Raises:
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    file_size(path)  # what is no regular file would never end
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            digest.update(block)
    with huge_images_in_turn():
        grey = read_image(path).convert("L")
        low, high = grey.getextrema()
        look = look_of(grey)
    return ImageFile(stamp, (grey.height, grey.width), digest.digest(), look, high - low <= BLANK_RANGE)


def look_of(grey: Image.Image) -> bytes:
    """The perceptual hash of a grey image; see `ImageFile`."""
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    waves = _waves()
    spectrum = waves @ np.asarray(small, dtype=np.float64) @ waves.T
    signs = spectrum.ravel() > 0
    signs[0] = False  # the mean grey value says nothing
    return np.packbits(signs).tobytes()


def _waves() -> NDArray[np.float64]:
    """The lowest waves of the discrete cosine transform, [FREQUENCIES, THUMBNAIL]."""
    places = np.arange(THUMBNAIL) + 0.5
    return np.cos(np.pi / THUMBNAIL * np.arange(FREQUENCIES)[:, None] * places)


def remember(folder: Path, files: Mapping[str, ImageFile | str]) -> None:
    """Keep what was read in the folder of a run.

    Raises:
        WriteError: that folder cannot be written.
    """
    kept = {path: file for path, file in files.items() if isinstance(file, ImageFile)}
    columns = {
        "format": np.array(FORMAT),
        "path": np.array(list(kept), dtype=np.str_),
        "stamp": np.array([file.stamp for file in kept.values()], dtype=np.int64).reshape(-1, 3),
        "size": np.array([file.size for file in kept.values()], dtype=np.int64).reshape(-1, 2),
        "digest": np.frombuffer(b"".join(file.digest for file in kept.values()), np.uint8).reshape(-1, 16),
        "look": np.frombuffer(b"".join(file.look for file in kept.values()), np.uint8).reshape(-1, 32),
        "is_blank": np.array([file.is_blank for file in kept.values()], dtype=bool),
    }
    write_whole(folder / MEMORY, lambda file: np.savez_compressed(file, **columns))


def recall(run: Path | None) -> Known:
    """What a run, or else the newest of those beside it, knows of image files; nothing where nothing is known."""
    if run is None:
        return {}
    known = _load(run / MEMORY)
    if known:
        return known
    merged: Known = {}
    for memory in _neighbours(run):
        merged = {**_load(memory), **merged}
    return merged


def _neighbours(run: Path) -> list[Path]:
    try:
        memories = [(path.stat().st_mtime, path) for path in Path(os.path.abspath(run)).parent.glob(f"*/{MEMORY}")]
    except OSError:
        return []
    return [path for _, path in sorted(memories, reverse=True)[:NEWEST_RUNS]]


def _load(path: Path) -> Known:
    try:
        with np.load(path, allow_pickle=False) as columns:
            if int(columns["format"]) != FORMAT:
                return {}
            paths, stamps, sizes = (columns[key].tolist() for key in ("path", "stamp", "size"))
            digests, looks = (list(map(bytes, columns[key])) for key in ("digest", "look"))
            blank = columns["is_blank"].tolist()
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return {}  # not there, or damaged: the images are there to be read
    rows = zip(paths, stamps, sizes, digests, looks, blank, strict=False)
    return {path: ImageFile(tuple(t), tuple(s), d, k, b) for path, t, s, d, k, b in rows}
