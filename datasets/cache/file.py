"""The decoded images of a split in one memory-mapped file: its format, and how it is read.

    16 bytes    MARK, which changes with the format
    pixels      image after image as its 8-bit values: grey [h, w] where the three channels agree, else [h, w, 3]
    index       JSON: version of the image reader, and per image an Entry, with a checksum of its pixels
    8 bytes     start of the index, little endian
    16 bytes    digest of index and these 8 bytes
    16 bytes    MARK again

The file is written whole or not at all (`datasets.cache.build`) and named after the split. An entry states the name,
size and time of its image file; where only the time differs, as after a copy, the content decides. The index is
compared with its digest when the cache is opened, the pixels of an image with their checksum when a process first reads
them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.annotations.split import Split
from util.base.errors import DataError
from util.base.reading import read_regular, require_regular
from util.base.text import first_few
from util.base.threads import read_each
from util.images import to_image
from util.images.reader import MAX_FILE_BYTES, READER_VERSION

MARK = b"decoded images 2"
WIDTH_OF_START = 8
DIGEST_BYTES = 16


class UnusableCache(DataError):  # noqa: N818 the cache is rebuilt, and the reason logged
    """The cache is missing, damaged or of other images; it can be built."""


@dataclass(frozen=True)
class SourceFile:
    """Identity of the content of an image file."""

    name: str
    num_bytes: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True)
class Entry:
    """An image in the cache."""

    source: SourceFile
    start: int  # offset of its pixels in bytes
    height: int
    width: int
    channels: int  # 1 or 3
    crc: int  # of its pixels

    @property
    def end(self) -> int:
        """Offset of the first byte after its pixels."""
        return self.start + self.height * self.width * self.channels

    def dump(self) -> str:
        """Serialize as one line of JSON."""
        source, *rest = astuple(self)
        return json.dumps([*source, *rest])

    @classmethod
    def load(cls, values: Sequence) -> Entry:
        """Make an entry of the parsed JSON of `dump`.

        Raises:
            ValueError, TypeError: the values are not those of an entry.
        """
        name, num_bytes, mtime_ns, digest, *rest = values
        start, height, width, channels, crc = rest
        are_texts = isinstance(name, str) and isinstance(digest, str)
        are_counts = all(type(v) is int and v >= 0 for v in (num_bytes, start, height, width, crc))
        if not are_texts or not are_counts or type(mtime_ns) is not int or channels not in (1, 3):
            raise ValueError(f"no entry of a cache: {values!r:.100}")
        return cls(SourceFile(name, num_bytes, mtime_ns, digest), start, height, width, channels, crc)


class ImageCache:
    """The cached images of a split by position. A process that receives a cache maps the file again.

    Args:
        file: the cache.
        entries: its images.
        fingerprint: of its index.
        reader: that has decoded the images.
    """

    def __init__(self, file: Path, entries: Sequence[Entry], fingerprint: str, reader: str) -> None:
        self.file = file
        self.reader = reader
        self.fingerprint = fingerprint
        self.starts = np.array([entry.start for entry in entries])  # [I]
        self.shapes = np.array([[e.height, e.width, e.channels] for e in entries])  # [I, 3]
        self.crcs = [entry.crc for entry in entries]

    def __len__(self) -> int:
        return len(self.starts)

    def __call__(self, index: int) -> Image.Image:
        """Load the image at a position of the split, equal to the bit to `datasets.dataset.load_image`.

        Raises:
            DataError: its pixels differ from those that were written.
        """
        height, width, channels = self.shapes[index].tolist()
        if not self._is_checked[index]:
            if not self.is_whole(index):
                raise DataError(
                    f"{self.file}: the pixels of image number {index} are damaged; remove the file, and the next "
                    "start or scripts/build_cache.py rebuilds it"
                )
            self._is_checked[index] = True
        return to_image(self._pixels(index).reshape((height, width) if channels == 1 else (height, width, channels)))

    def is_whole(self, index: int) -> bool:
        """Whether the pixels at a position match their checksum."""
        return zlib.crc32(self._pixels(index).data) == self.crcs[index]

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        start = int(self.starts[index])
        return self._bytes[start : start + int(self.shapes[index].prod())]

    @property
    def num_coloured(self) -> int:
        """Number of images with three channels."""
        return int((self.shapes[:, 2] == 3).sum())

    @property
    def num_bytes(self) -> int:
        """Size of all pixels."""
        return int(self.shapes.prod(axis=1).sum())

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        mapped = np.memmap(self.file, np.uint8, mode="r")
        if _read_index(self.file, self.reader)[1] != self.fingerprint:
            raise DataError(f"{self.file}: was rebuilt meanwhile; restart")
        return mapped

    @cached_property
    def _is_checked(self) -> NDArray[np.bool_]:
        """[I]: whether this process has compared the checksum of an image."""
        return np.zeros(len(self), bool)

    def __getstate__(self) -> dict[str, object]:
        own = ("_bytes", "_is_checked")  # the memory map would be pickled as its content
        return {key: value for key, value in vars(self).items() if key not in own}


def cache_file(split: Split, folder: Path) -> Path:
    """The path of the cache of a split."""
    return folder / f"{split.name}.images"


def open_cache(split: Split, folder: Path, *, checks_pixels: bool = False) -> ImageCache:
    """Open the cache of a split, after a check of each image file and, with `checks_pixels`, of all cached pixels.

    It may hold more images, in any order: a list is used in training without its unlabelled images, in validation with
    them.

    Raises:
        UnusableCache: it is missing, damaged, of other images, or a file has changed since.
    """
    file = cache_file(split, folder)
    reader = reader_of(split)
    held, fingerprint = _read_index(file, reader)
    of_name = {entry.source.name: entry for entry in held}
    missing = [name for name in split.file_names.tolist() if name not in of_name]
    if missing:
        raise UnusableCache(f"{file}: lacks {len(missing)} images of {split.annotation_file}: {first_few(missing)}")
    entries = [of_name[name] for name in split.file_names.tolist()]
    if changed := changed_sources(split, entries):
        names = first_few([entries[i].source.name for i in changed])
        raise UnusableCache(f"{file}: {len(changed)} images have changed since: {names}")
    cache = ImageCache(file, entries, fingerprint, reader)
    if not np.array_equal(cache.shapes[:, :2], split.sizes):
        raise UnusableCache(f"{file}: holds images of other sizes than {split.annotation_file} states")
    if checks_pixels and (damaged := [entries[i].source.name for i in range(len(cache)) if not cache.is_whole(i)]):
        raise UnusableCache(f"{file}: the pixels of {len(damaged)} images are damaged: {first_few(damaged)}")
    return cache


def read_source_file(split: Split, index: int) -> SourceFile:
    """Read the identity of the image file at a position.

    Raises:
        OSError: it cannot be read.
    """
    path = split.path(index)
    status = require_regular(path)
    digest = hashlib.blake2b(read_regular(path, MAX_FILE_BYTES), digest_size=DIGEST_BYTES).hexdigest()
    return SourceFile(str(split.file_names[index]), status.st_size, status.st_mtime_ns, digest)


def changed_sources(split: Split, entries: Sequence[Entry]) -> list[int]:
    """Positions of the `entries`, the first of the split, whose image files are missing or have other content."""
    same = chain.from_iterable(read_each(lambda i: _is_same(split, i, entries[i].source), range(len(entries))))
    return [i for i, is_same in enumerate(same) if not is_same]


def _is_same(split: Split, index: int, source: SourceFile) -> bool:
    try:
        status = (split.image_dir / source.name).stat()
        if status.st_size != source.num_bytes:
            return False
        return status.st_mtime_ns == source.mtime_ns or read_source_file(split, index).digest == source.digest
    except OSError:
        return False


def reader_of(split: Split) -> str:
    """The reader and the rules by which the images of a split are decoded; pixels of another one are not used."""
    return READER_VERSION + split.rules.suffix


def dump_index(entries: Sequence[Entry], reader: str) -> bytes:
    """Serialize what follows the pixels: index, start, digest and MARK."""
    lines = ",\n".join(entry.dump() for entry in entries)
    index = f'{{"reader": {json.dumps(reader)}, "entries": [\n{lines}\n]}}\n'.encode()
    start = entries[-1].end.to_bytes(WIDTH_OF_START, "little")
    return index + start + _digest(index + start) + MARK


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _read_index(file: Path, reader: str) -> tuple[list[Entry], str]:
    """Read the entries of a cache of a reader, and their fingerprint."""
    try:
        index, start, digest = _index_bytes(file)
        if _digest(index + start) != digest:
            raise ValueError("another digest")
        content = json.loads(index)
        entries = [Entry.load(values) for values in content["entries"]]
        built_by = content["reader"]
        edges = [len(MARK), *(entry.end for entry in entries)]
        if [entry.start for entry in entries] != edges[:-1] or edges[-1] != int.from_bytes(start, "little"):
            raise ValueError("images with gaps between them")
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableCache(f"{file}: there is no such cache") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check its permissions and its folder's") from error
    except UnusableCache:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnusableCache(f"{file}: its index is damaged") from error
    if built_by != reader:
        raise UnusableCache(
            f"{file}: was built by another version or by other reading rules ({built_by} instead of {reader})"
        )
    return entries, digest.hex()


def _index_bytes(file: Path) -> tuple[bytes, bytes, bytes]:
    """Read the index, its start, and the digest of both."""
    tail = WIDTH_OF_START + DIGEST_BYTES + len(MARK)
    with file.open("rb") as stream:
        length = stream.seek(0, 2)
        stream.seek(max(0, length - tail))
        start = stream.read(WIDTH_OF_START)
        digest = stream.read(DIGEST_BYTES)
        mark = stream.read()
        stream.seek(0)
        head = stream.read(len(MARK))
        if head == mark != MARK and mark[:-1] == MARK[:-1]:
            raise UnusableCache(f"{file}: was built by another version, in another format")
        begins = int.from_bytes(start, "little")
        if mark != MARK or head != MARK or not len(MARK) <= begins <= length - tail:
            raise UnusableCache(f"{file}: is no complete cache of this format")
        stream.seek(begins)
        return stream.read(length - tail - begins), start, digest
