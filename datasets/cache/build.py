"""Build the cache of a split once, in parallel; after a kill at any moment the next start completes it.

The pixels are written to NAME.images.part in the order of the split, and after each image a line to
NAME.images.journal. The next start keeps the images on which both files and the image files agree. A lock on
NAME.images.lock, which the system releases when a process is killed, lets one process build while others wait.
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
    SourceFile,
    UnusableCache,
    cache_file,
    changed_sources,
    dump_index,
    open_cache,
    read_source_file,
    reader_of,
)
from datasets.dataset import load_image
from util.base.console import Progress, print_note
from util.base.errors import DataError
from util.base.files import DISK_FULL, WriteError

AHEAD = 4  # images per thread that may wait to be written
POLL_EVERY = 0.2  # seconds between tries to take the lock of another process
MEGABYTE = 10**6


def ensure_cache(split: Split, folder: Path, *, workers: int, checks_pixels: bool = False) -> ImageCache:
    """Open the cache of a split; build it first where it is missing, damaged, or an image file has changed.

    Args:
        split: whose images.
        folder: of the caches of one data set; created if missing.
        workers: threads that read images.
        checks_pixels: compare all pixels of an existing cache with their checksums, 1 s for 2 GB. Without, each image
            is compared when it is read.

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
                print_note(f"{reason}; rebuilding it")
            _build(split, file, workers)
        return open_cache(split, folder)


def part_file(file: Path) -> Path:
    """The pixels of a cache that is being built."""
    return file.with_name(f"{file.name}.part")


def journal_file(file: Path) -> Path:
    """A line of JSON per image in the part file."""
    return file.with_name(f"{file.name}.journal")


@contextmanager
def _sole_builder(split: Split, file: Path) -> Iterator[None]:
    """Hold the lock of a cache; while another process has it, show the progress of that process."""
    lock = file.with_name(f"{file.name}.lock")
    progress = Progress(f"waiting for another process that builds {file}", split.num_images, "images")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a", encoding="utf-8")
    except OSError as error:
        raise _cannot_write(lock, error) from error
    with stream:
        while not _is_locked_now(stream, lock):
            time.sleep(POLL_EVERY)
            progress.advance(_num_written(journal_file(file)) - progress.done)
        progress.close()
        yield


def _is_locked_now(stream: IO[str], lock: Path) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise WriteError(
            f"{lock}: this disk supports no locks ({error.strerror}), so two jobs could write one cache; choose another"
        ) from error
    return True


def _num_written(journal: Path) -> int:
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:  # before the first image, or finished
        return 0


def _build(split: Split, file: Path, workers: int) -> None:
    part = part_file(file)
    journal = journal_file(file)
    try:
        entries = _resume(split, part, journal)
        _truncate(part, journal, entries, reader_of(split))
        _require_space(split, file, len(entries))
        with part.open("ab") as pixels, journal.open("a", encoding="utf-8") as lines:
            for source, image in _decode_from(split, len(entries), workers):
                entry = _entry(source, image, start=pixels.tell())
                pixels.write(image.tobytes())
                pixels.flush()  # before its line in the journal
                lines.write(entry.dump() + "\n")
                lines.flush()
                entries.append(entry)
            pixels.write(dump_index(entries, reader_of(split)))
            pixels.flush()
            os.fsync(pixels.fileno())
        part.replace(file)
        journal.unlink()
    except OSError as error:
        raise _cannot_write(part, error) from error


def _resume(split: Split, part: Path, journal: Path) -> list[Entry]:
    """Entries of the images that an earlier start has written and whose files are unchanged."""
    if not (part.exists() and journal.exists()):
        return []
    entries = []
    sizes = (tuple(size) for size in split.sizes.tolist())
    with part.open("rb") as pixels:
        is_current = pixels.read(len(MARK)) == MARK
        known = _entries_of(journal, reader_of(split)) if is_current else iter(())
        for name, size, entry in zip(split.file_names.tolist(), sizes, known, strict=False):
            if (entry.source.name, (entry.height, entry.width)) != (name, size) or entry.start != pixels.tell():
                break
            if zlib.crc32(pixels.read(entry.end - entry.start)) != entry.crc:
                break  # after a crash of the machine
            entries.append(entry)
    return entries[: min([len(entries), *changed_sources(split, entries)])]


def _entries_of(journal: Path, reader: str) -> Iterator[Entry]:
    """Entries of the journal up to the first incomplete line, which a power cut may leave."""
    built_by, *lines = journal.read_bytes().decode(errors="replace").split("\n")[:-1] or [""]
    for line in lines if built_by == reader else ():
        try:
            entry = Entry.load(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return
        yield entry


def _truncate(part: Path, journal: Path, entries: list[Entry], reader: str) -> None:
    """Remove all but `entries` from the part file and its journal."""
    with part.open("ab") as pixels:
        if not entries:
            pixels.truncate(0)
            pixels.write(MARK)
        else:
            pixels.truncate(entries[-1].end)
    journal.write_text("".join(f"{line}\n" for line in [reader, *(e.dump() for e in entries)]), encoding="utf-8")


def _require_space(split: Split, file: Path, num_done: int) -> None:
    needed = int(split.sizes[num_done:].prod(axis=1).sum())
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise WriteError(
            f"{file.parent}: has {free // MEGABYTE} MB free, but the cache of {split.name} needs "
            f"{-(-needed // MEGABYTE)} MB more; free some space there, or choose another folder"
        )


def _decode_from(split: Split, first: int, workers: int) -> Iterator[tuple[SourceFile, NDArray[np.uint8]]]:
    """Decode the images from position `first` on, in order."""
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


def _decode(split: Split, index: int) -> tuple[SourceFile, NDArray[np.uint8]]:
    """Decode one image: grey [h, w] where the channels agree, else [h, w, 3]."""
    path = split.path(index)
    try:
        source = read_source_file(split, index)
        pixels = np.asarray(load_image(split, index))
        is_same = path.stat().st_mtime_ns == source.mtime_ns
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); complete the download") from error
    if not is_same:
        raise DataError(f"{path}: changed while it was read; restart when nothing writes there")
    return source, pixels


def _entry(source: SourceFile, pixels: NDArray[np.uint8], start: int) -> Entry:
    height, width = pixels.shape[:2]
    return Entry(source, start, height, width, 1 if pixels.ndim == 2 else 3, zlib.crc32(pixels.data))


def _cannot_write(path: Path, error: OSError) -> WriteError:
    fix = "Free some space there" if error.errno in DISK_FULL else "Correct the permissions"
    return WriteError(
        f"{path}: cannot be written ({error.strerror}); the next start continues from what is written. "
        f"{fix}, choose another one, or set --options image_cache='' to read the image files"
    )
