"""Building the cache of a split: once, in parallel; killed at any moment, the next start completes it.

The pixels go into NAME.images.part in the order of the split, and after each image a line into NAME.images.journal. The
next start keeps the images that both files and the image files agree on. A lock on NAME.images.lock, which the system
takes back from a killed process, lets one process build while others wait and then find the cache whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from datasets.annotations.split import Split
from datasets.cache.file import (
    MARK,
    Entry,
    ImageCache,
    Source,
    UnusableCache,
    cache_file,
    changed_sources,
    index_of,
    open_cache,
    source_of,
)
from datasets.dataset import load_image
from util.base.console import Progress, remark
from util.base.errors import DataError
from util.base.files import NO_ROOM, WriteError
from util.images.reader import READER_VERSION

AHEAD = 4  # images per thread that may wait to be written
LOOK_EVERY = 0.2  # seconds between looks at another process's lock
MEGABYTE = 10**6


def ready_cache(split: Split, folder: Path, *, workers: int, checks_pixels: bool = False) -> ImageCache:
    """The cache of a split, built first where there is none, it is damaged, or an image file has changed since.

    Args:
        split: whose images.
        folder: where caches lie, one folder for each data set; made if need be.
        workers: threads that read images.
        checks_pixels: compare all pixels of a cache that is there with their checksums, 1 s for 2 GB. Without, each
            image is compared when it is read.

    Raises:
        DataError: an image cannot be read.
        WriteError: the disk is too small, or the folder cannot be written.
    """
    try:
        return open_cache(split, folder, checks_pixels=checks_pixels)
    except UnusableCache:
        file = cache_file(split, folder)
    with _sole_builder(split, file):
        try:  # another process may have built it meanwhile
            return open_cache(split, folder, checks_pixels=checks_pixels)
        except UnusableCache as reason:
            if file.exists():
                remark(f"{reason}; it is built anew")
            _build(split, file, workers)
        return open_cache(split, folder)


def part_of(file: Path) -> Path:
    """The pixels of a cache that is being built."""
    return file.with_name(f"{file.name}.part")


def journal_of(file: Path) -> Path:
    """A line of JSON per image in it."""
    return file.with_name(f"{file.name}.journal")


@contextmanager
def _sole_builder(split: Split, file: Path) -> Iterator[None]:
    """Hold the lock of a cache; while another process has it, show how far that one is."""
    lock = file.with_name(f"{file.name}.lock")
    progress = Progress(f"waiting for another process that builds {file}", split.num_images, "images")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a")
    except OSError as error:
        raise _cannot_write(lock, error) from error
    with stream:
        while not _is_locked_now(stream, lock):
            time.sleep(LOOK_EVERY)
            progress.advance(_lines_of(journal_of(file)) - progress.done)
        progress.close()
        yield


def _is_locked_now(stream: IO[str], lock: Path) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise WriteError(
            f"{lock}: this disk knows no locks ({error.strerror}), so two jobs could write one cache; put it elsewhere"
        ) from error
    return True


def _lines_of(journal: Path) -> int:
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:  # it begins, or it is done
        return 0


def _build(split: Split, file: Path, workers: int) -> None:
    part = part_of(file)
    journal = journal_of(file)
    try:
        entries = _kept(split, part, journal)
        _cut(part, journal, entries)
        _require_room(split, file, len(entries))
        with part.open("ab") as pixels, journal.open("a", encoding="utf-8") as lines:
            for source, image in _decoded(split, len(entries), workers):
                entry = _entry(source, image, start=pixels.tell())
                pixels.write(image.tobytes())
                pixels.flush()  # a line in the journal vouches for what is there
                lines.write(entry.dump() + "\n")
                lines.flush()
                entries.append(entry)
            pixels.write(index_of(entries))
            pixels.flush()
            os.fsync(pixels.fileno())
        part.replace(file)
        journal.unlink()
    except OSError as error:
        raise _cannot_write(part, error) from error


def _kept(split: Split, part: Path, journal: Path) -> list[Entry]:
    """The first images of the split, as far as an earlier start came and nothing has changed since."""
    if not (part.exists() and journal.exists()):
        return []
    entries = []
    sizes = (tuple(size) for size in split.sizes.tolist())
    with part.open("rb") as pixels:
        is_ours = pixels.read(len(MARK)) == MARK
        known = _entries_of(journal) if is_ours else iter(())
        for name, size, entry in zip(split.file_names.tolist(), sizes, known, strict=False):
            if (entry.source.name, (entry.height, entry.width)) != (name, size) or entry.start != pixels.tell():
                break
            if zlib.crc32(pixels.read(entry.end - entry.start)) != entry.crc:
                break  # after a crash of the whole machine
            entries.append(entry)
    return entries[: min([len(entries), *changed_sources(split, entries)])]


def _entries_of(journal: Path) -> Iterator[Entry]:
    """What whole lines say, up to the first that says nothing, as a power cut leaves one."""
    reader, *lines = journal.read_bytes().decode(errors="replace").split("\n")[:-1] or [""]
    for line in lines if reader == READER_VERSION else ():
        try:
            entry = Entry.load(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return
        yield entry


def _cut(part: Path, journal: Path, entries: list[Entry]) -> None:
    """Take away what is not kept."""
    with part.open("ab") as pixels:
        if not entries:
            pixels.truncate(0)
            pixels.write(MARK)
        else:
            pixels.truncate(entries[-1].end)
    journal.write_text(
        "".join(f"{line}\n" for line in [READER_VERSION, *(e.dump() for e in entries)]), encoding="utf-8"
    )


def _require_room(split: Split, file: Path, num_done: int) -> None:
    need = int(split.sizes[num_done:].prod(axis=1).sum())
    free = shutil.disk_usage(file.parent).free
    if need > free:
        raise WriteError(
            f"{file.parent}: has {free // MEGABYTE} MB free, but the cache of {split.name} needs "
            f"{-(-need // MEGABYTE)} MB more; free some space there, or choose another folder"
        )


def _decoded(split: Split, first: int, workers: int) -> Iterator[tuple[Source, NDArray[np.uint8]]]:
    """The images from position `first` on, in order."""
    progress = Progress(f"caching the images of {split.name}", split.num_images, "images", done=first)
    with ThreadPoolExecutor(workers) as pool:
        positions = iter(range(first, split.num_images))
        running: deque[Future] = deque()
        try:
            while True:
                ahead = islice(positions, AHEAD * workers - len(running))
                running.extend(pool.submit(_decode, split, i) for i in ahead)
                if not running:
                    break
                yield running.popleft().result()
                progress.advance()
        finally:
            for future in running:
                future.cancel()
    progress.close()


def _decode(split: Split, index: int) -> tuple[Source, NDArray[np.uint8]]:
    """An image file and its pixels, grey [h, w] where the channels agree, else [h, w, 3]."""
    path = split.image_dir / str(split.file_names[index])
    try:
        source = source_of(split, index)
        pixels = np.asarray(load_image(split, index))
        is_same = path.stat().st_mtime_ns == source.mtime_ns
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); complete the download") from error
    if not is_same:
        raise DataError(f"{path}: changed while it was read; start again when nothing writes there")
    return source, pixels


def _entry(source: Source, pixels: NDArray[np.uint8], start: int) -> Entry:
    height, width = pixels.shape[:2]
    return Entry(source, start, height, width, 1 if pixels.ndim == 2 else 3, zlib.crc32(pixels))


def _cannot_write(path: Path, error: OSError) -> WriteError:
    mend = "Free some space there" if error.errno in NO_ROOM else "Mend this folder"
    return WriteError(
        f"{path}: cannot be written ({error.strerror}); what is there is kept, and the next start goes on from it. "
        f"{mend}, choose another one, or set --options image_cache='' to read the image files"
    )
