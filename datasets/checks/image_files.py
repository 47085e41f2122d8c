"""Read what image files hold: their size, or also a digest and a perceptual hash of every file.

Reading every file takes minutes on a large data set, so the records are saved and used again. A saved record counts
only while the file's size and its times of change (content and inode) are the same; a file that could not be read is
always read again.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from util.base.console import Progress
from util.base.errors import MissingPackage
from util.base.files import write_atomically
from util.base.threads import read_each
from util.images import UNREADABLE, ImageFacts, huge_images_in_turn, read_facts
from util.images.depth import SampleDepth
from util.images.reader import file_size, read_with_facts

RECORDS = "image_check.npz"
RECORDS_FORMAT = 2  # changes whenever the same file would give another record
NEWEST_RUNS = 8  # runs beside this one whose records are read
THUMBNAIL = 64
FREQUENCIES = 16
# Images with at most this range of grey values are blank.
BLANK_RANGE = 2


@dataclass(frozen=True)
class ImageFile:
    """The record of a file that could be read as an image.

    `phash` are the signs of the image's 255 lowest spatial frequencies (a perceptual hash after Zauner, 2010): saving
    again, scaling, a little more contrast or brightness change a few of them, another image changes about half.
    """

    stamp: tuple[int, int, int]  # bytes, and times of the last change of content and inode, ns
    size: tuple[int, int]  # (height, width) pixels
    digest: bytes  # of the file, 16 bytes
    phash: bytes  # 32 bytes
    is_blank: bool  # all pixels are alike
    turn: int = 1  # orientation tag
    samples: SampleDepth | None = None  # of 16-bit files; hash and is_blank are those of the file read alone


# By absolute path: the record of a file, or why it cannot be read. Files that do not exist are absent.
Files = Mapping[str, ImageFile | str]
Content = TypeVar("Content")


def read_image_files(paths: Iterable[Path], known: Mapping[str, ImageFile]) -> dict[str, ImageFile | str]:
    """Read every file to its end; `known` records of unchanged files are taken over.

    Raises:
        MissingPackage: a file is DICOM, and the package that reads it is not installed.
    """
    return _read_each(paths, lambda path: _read(path, known.get(str(path))), "reading the images")


def read_image_headers(paths: Iterable[Path]) -> dict[str, ImageFacts | str]:
    """Read the header of every file: its facts, or why it cannot be read, by absolute path.

    Raises:
        MissingPackage: as `read_image_files`.
    """
    return _read_each(paths, lambda path: read_facts(path) if path.is_file() else None, "checking the images")


def read_depths(contents: Mapping[str, ImageFile | ImageFacts | str]) -> dict[str, SampleDepth]:
    """What tells the depth of the files with 16-bit samples, by path; those of which only the header is known are read.

    Raises:
        MissingPackage: as `read_image_files`.
    """
    deep = {path: content.samples for path, content in contents.items() if not isinstance(content, str)}
    depths = {path: samples for path, samples in deep.items() if samples}
    unread = [Path(path) for path, samples in depths.items() if samples.highest is None]
    if unread:
        read = _read_each(unread, lambda path: read_with_facts(path).samples, "reading the 16-bit images")
        depths |= {path: samples for path, samples in read.items() if not isinstance(samples, str)}
    return depths


def _read_each(paths: Iterable[Path], read: Callable[[Path], Content | None], label: str) -> dict[str, Content | str]:
    paths = [Path(os.path.abspath(path)) for path in paths]
    progress = Progress(label, len(paths), "images")
    contents: dict[str, Content | str] = {}
    for results in read_each(lambda path: (path, _content(path, read)), paths):
        contents.update({str(path): content for path, content in results if content is not None})
        progress.advance(len(results))
    progress.close()
    return contents


def _content(path: Path, read: Callable[[Path], Content | None]) -> Content | str | None:
    """What `read` returns for a file; the reason where it cannot be read; None where it does not exist."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except MissingPackage:  # the file is whole, and so may be all others of its kind
        raise
    except UnidentifiedImageError:
        return "no image" if path.stat().st_size else "empty"
    except UNREADABLE as error:
        return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _read(path: Path, known: ImageFile | None) -> ImageFile:
    status = path.stat()
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return known if known is not None and known.stamp == stamp else read_image_file(path, stamp)


def read_image_file(path: Path, stamp: tuple[int, int, int]) -> ImageFile:
    """Read one file to its end.

    Raises:
        one of UNREADABLE: the file is missing, damaged, or of a kind that has no sensible 8-bit form.
    """
    file_size(path)  # a FIFO or a device would never end
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            digest.update(block)
    with huge_images_in_turn():
        reading = read_with_facts(path)
        grey = reading.image.convert("L")
        is_blank = int(np.ptp(np.asarray(grey))) <= BLANK_RANGE
        phash = perceptual_hash(grey)
    return ImageFile(stamp, (grey.height, grey.width), digest.digest(), phash, is_blank, reading.turn, reading.samples)


def perceptual_hash(grey: Image.Image) -> bytes:
    """The perceptual hash of a grey image; see `ImageFile`."""
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    waves = _waves()
    spectrum = waves @ np.asarray(small, dtype=np.float64) @ waves.T
    signs = spectrum.ravel() > 0
    signs[0] = False  # the mean grey value does not describe the content
    return np.packbits(signs).tobytes()


def _waves() -> NDArray[np.float64]:
    """The lowest waves of the discrete cosine transform, [FREQUENCIES, THUMBNAIL]."""
    places = np.arange(THUMBNAIL) + 0.5
    return np.cos(np.pi / THUMBNAIL * np.arange(FREQUENCIES)[:, None] * places)


def save_image_records(folder: Path, files: Files) -> None:
    """Save the records of the readable files in the folder of a run.

    Raises:
        WriteError: that folder cannot be written.
    """
    kept = {path: file for path, file in files.items() if isinstance(file, ImageFile)}
    images = list(kept.values())
    write_atomically(
        folder / RECORDS,
        lambda file: np.savez_compressed(
            file,
            format=np.array(RECORDS_FORMAT),
            path=np.array(list(kept), dtype=np.str_),
            stamp=np.array([image.stamp for image in images], dtype=np.int64).reshape(-1, 3),
            size=np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
            digest=np.frombuffer(b"".join(image.digest for image in images), np.uint8).reshape(-1, 16),
            look=np.frombuffer(b"".join(image.phash for image in images), np.uint8).reshape(-1, 32),
            is_blank=np.array([image.is_blank for image in images], dtype=bool),
            turn=np.array([image.turn for image in images], dtype=np.int64),
            samples=np.array([_dump_samples(image.samples) for image in images], dtype=np.int64).reshape(-1, 2),
        ),
    )


def load_image_records(run: Path | None) -> dict[str, ImageFile]:
    """Records of image files by absolute path, from a run, or else from the newest runs beside it."""
    if run is None:
        return {}
    known = _load(run / RECORDS)
    if known:
        return known
    merged: dict[str, ImageFile] = {}
    for file in _neighbours(run):
        merged = {**_load(file), **merged}
    return merged


def _neighbours(run: Path) -> list[Path]:
    try:
        files = [(path.stat().st_mtime, path) for path in Path(os.path.abspath(run)).parent.glob(f"*/{RECORDS}")]
    except OSError:
        return []
    return [path for _, path in sorted(files, reverse=True)[:NEWEST_RUNS]]


def _load(path: Path) -> dict[str, ImageFile]:
    try:
        with np.load(path, allow_pickle=False) as columns:
            if int(columns["format"]) != RECORDS_FORMAT:
                return {}
            paths, stamps, sizes = (columns[key].tolist() for key in ("path", "stamp", "size"))
            digests, hashes = (list(map(bytes, columns[key])) for key in ("digest", "look"))
            blank, turns, samples = (columns[key].tolist() for key in ("is_blank", "turn", "samples"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return {}  # missing or damaged: the images themselves are read
    rows = zip(paths, stamps, sizes, digests, hashes, blank, turns, map(_load_samples, samples), strict=False)
    return {path: ImageFile(tuple(stamp), tuple(size), *rest) for path, stamp, size, *rest in rows}


def _dump_samples(samples: SampleDepth | None) -> tuple[int, int]:
    """(stated, highest), with 0 and -1 where there is none."""
    return (0, -1) if samples is None else (samples.stated or 0, -1 if samples.highest is None else samples.highest)


def _load_samples(row: list[int]) -> SampleDepth | None:
    stated, highest = row
    return None if highest < 0 else SampleDepth(stated or None, highest)
