"""What lies in a folder or in a zip file, whatever the depth."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from PIL import UnidentifiedImageError

from util.errors import DataError
from util.images import UNREADABLE, read_size

MOST_FILES = 500_000
LARGEST_MEMBER = 2**30  # bytes
UNPACKABLE = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, ValueError)


class Tree(Protocol):
    """Files by their name relative to `root`, with slashes."""

    root: Path
    sizes: dict[str, int]  # bytes

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def image_size(self, name: str) -> tuple[int, int]:
        """(height, width) pixels of an image, from its header."""

    def put(self, name: str, target: Path) -> None:
        """Make the file stand at `target` too."""


def open_tree(path: Path) -> Tree:
    """The files of a folder or a zip file.

    Raises:
        DataError: there is neither, or it cannot be read.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or zip file; give where TBX11K was unpacked or downloaded")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is neither a folder nor a zip file; give where TBX11K was unpacked or downloaded")
    return Zip(path)


class Folder:
    """The files below a folder. Links to folders are followed, each folder is looked into once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sizes = dict(self._walk())

    def _walk(self) -> Iterator[tuple[str, int]]:
        seen, count = set(), 0
        for folder, below, files in os.walk(self.root, followlinks=True):
            here = os.path.realpath(folder)
            below[:] = [] if here in seen else sorted(name for name in below if not name.startswith("."))
            files = [] if here in seen else files
            seen.add(here)
            count += len(files)
            if count > MOST_FILES:
                raise DataError(f"{self.root}: holds more than {MOST_FILES} files; give the folder of TBX11K itself")
            for name in sorted(files):
                path = Path(folder, name)
                if path.is_file():
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.root / name}: cannot be read ({error.strerror or error})") from error

    def image_size(self, name: str) -> tuple[int, int]:
        """(height, width) pixels of an image, from its header."""
        return _size(self.root / name, self.root / name)

    def put(self, name: str, target: Path) -> None:
        """A second name of the file, or a copy where the disk is another one."""
        source = os.path.realpath(self.root / name)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


class Zip:
    """The files in a zip file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._archive = zipfile.ZipFile(root)
            infos = [info for info in self._archive.infolist() if not info.is_dir()]
        except UNPACKABLE as error:
            raise DataError(f"{root}: cannot be read as a zip file ({error}); fetch it anew") from error
        if len(infos) > MOST_FILES:
            raise DataError(f"{root}: holds more than {MOST_FILES} files; give the zip file of TBX11K itself")
        self.sizes = {info.filename: info.file_size for info in infos if not _is_hidden(info.filename)}

    def read(self, name: str) -> bytes:
        """The content of a file."""
        if self.sizes[name] > LARGEST_MEMBER:
            raise DataError(f"{self.root}: {name} is larger than {LARGEST_MEMBER} bytes; that is no file of TBX11K")
        try:
            return self._archive.read(name)
        except UNPACKABLE as error:
            raise DataError(f"{self.root}: {name} cannot be unpacked ({error}); fetch the zip file anew") from error

    def image_size(self, name: str) -> tuple[int, int]:
        """(height, width) pixels of an image, from its header."""
        return _size(io.BytesIO(self.read(name)), self.root / name)

    def put(self, name: str, target: Path) -> None:
        """Unpack the file."""
        target.write_bytes(self.read(name))


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _size(file: Path | io.BytesIO, name: Path) -> tuple[int, int]:
    try:
        return read_size(file)
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: is no image; fetch the file anew, or leave it out") from error
    except UNREADABLE as error:
        raise DataError(f"{name}: cannot be read as an image ({error}); fetch the file anew") from error
