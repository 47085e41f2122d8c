"""The files of a folder or of a zip file, at any depth."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import UnidentifiedImageError

from util.base.errors import DataError
from util.base.reading import DAMAGED_ARCHIVE, is_regular, read_member, read_regular
from util.images import UNREADABLE, read_size

MOST_FILES = 500_000
LARGEST_MEMBER = 2**29  # bytes


class Folder:
    """The files below a folder. Links to folders are followed, each folder is listed once.

    A link that leads out of the folder is left out unless `follows_links`: it could copy another file of this machine.
    """

    def __init__(self, root: Path, *, follows_links: bool) -> None:
        self.root = root
        self.follows_links = follows_links
        self.outside: list[str] = []  # links that lead out of the folder and are left out
        self._real_root = os.path.realpath(root)
        self.sizes = dict(self._walk())  # bytes by name relative to `root`, with slashes

    def _walk(self) -> Iterator[tuple[str, int]]:
        seen = set()
        count = 0
        for folder, below, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if not self._is_inside(real):
                self.outside.append(self._name(folder))
            is_new = real not in seen and self._is_inside(real)
            below[:] = sorted(name for name in below if not name.startswith(".")) if is_new else []
            files = sorted(files) if is_new else []
            seen.add(real)
            count += len(files)
            if count > MOST_FILES:
                raise DataError(f"{self.root}: holds more than {MOST_FILES} files; give the folder of the data itself")
            for path in (os.path.join(folder, name) for name in files):
                status = _status(path)
                if status is None or not is_regular(status):
                    continue
                if self._is_inside(os.path.realpath(path)):
                    yield self._name(path), status.st_size
                else:
                    self.outside.append(self._name(path))

    def _is_inside(self, real: str) -> bool:
        return self.follows_links or real == self._real_root or real.startswith(os.path.join(self._real_root, ""))

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return read_regular(self.root / name, LARGEST_MEMBER)
        except OSError as error:
            raise DataError(f"{self.root / name}: cannot be read ({error.strerror or error})") from error

    def image_size(self, name: str) -> tuple[int, int]:
        """(height, width) pixels of an image, from its header."""
        return _size(self.root / name, self.root / name)

    def copy_to(self, name: str, target: Path) -> None:
        """Hard-link the file, or copy it where the target is on another disk."""
        source = os.path.realpath(self.root / name)
        if not self._is_inside(source):
            raise DataError(f"{self.root / name}: leads out of the folder now; restart when nothing writes there")
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


class Zip:
    """The files in a zip file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside: list[str] = []  # a link in a zip file is a small file
        try:
            self._archive = zipfile.ZipFile(root)
            infos = [info for info in self._archive.infolist() if not info.is_dir()]
        except DAMAGED_ARCHIVE as error:
            raise DataError(f"{root}: cannot be read as a zip file ({error}); download it again") from error
        if len(infos) > MOST_FILES:
            raise DataError(f"{root}: holds more than {MOST_FILES} files; give the zip file of the data itself")
        self.sizes = {info.filename: info.file_size for info in infos if not _is_hidden(info.filename)}

    def read(self, name: str) -> bytes:
        """The content of a file."""
        if self.sizes[name] > LARGEST_MEMBER:
            raise DataError(f"{self.root}: {name} is larger than {LARGEST_MEMBER} bytes; that is no file of a data set")
        try:
            return read_member(self._archive, name)
        except DAMAGED_ARCHIVE as error:
            raise DataError(f"{self.root}: {name} cannot be unpacked ({error}); download the zip file again") from error

    def image_size(self, name: str) -> tuple[int, int]:
        """(height, width) pixels of an image, from its header."""
        return _size(io.BytesIO(self.read(name)), self.root / name)

    def copy_to(self, name: str, target: Path) -> None:
        """Unpack the file."""
        target.write_bytes(self.read(name))


Tree = Folder | Zip


def open_tree(path: Path, *, follows_links: bool) -> Tree:
    """The files of a folder or a zip file; with `follows_links` those that links in a folder lead to elsewhere, too.

    Raises:
        DataError: `path` is neither, or cannot be read.
    """
    if path.is_dir():
        return Folder(path, follows_links=follows_links)
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or zip file; give where the data was unpacked or downloaded")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is neither a folder nor a zip file; give where the data was unpacked or downloaded")
    return Zip(path)


def _status(path: str) -> os.stat_result | None:
    """The status of a path after following links; None where nothing is there, or a circular link."""
    try:
        return os.stat(path)
    except OSError:
        return None


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _size(file: Path | io.BytesIO, name: Path) -> tuple[int, int]:
    try:
        return read_size(file)
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: is no image; download the file again, or leave it out") from error
    except UNREADABLE as error:
        raise DataError(f"{name}: cannot be read as an image ({error}); download the file again") from error
