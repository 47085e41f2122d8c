"""What a command line names as images: files, folders, patterns and zip archives, as a list of single images."""

from __future__ import annotations

import glob
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from util.base.errors import UserError
from util.base.reading import DAMAGED_ARCHIVE, is_regular, read_member, require_known_method, require_regular
from util.base.text import first_few
from util.images import huge_images_in_turn, is_dicom, read_image
from util.images.huge_images import take_turn
from util.images.reader import MAX_FILE_BYTES
from util.predict.outputs import FILE, PICTURES

# Endings of files that are taken for images in a folder or an archive. DICOM is known by its content.
ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".pgm", ".ppm"),
    *(".dcm", ".dicom"),
}
NO_IMAGES = {"DICOMDIR", "Thumbs.db"}
NO_FOLDERS = {"__MACOSX"}
LONGEST_NAME = 200  # bytes of a part of a path: a picture gets the name and an ending
LARGEST_MEMBER = MAX_FILE_BYTES  # bytes of a file in an archive


@dataclass(frozen=True)
class Source:
    """One image to read."""

    name: str  # its path below what all inputs have in common; unlike all others
    path: Path  # the file, or the archive
    member: str | None = None  # the file in the archive

    @property
    def where(self) -> str:
        """The path as a person would write it."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def stamp(self) -> tuple[int, int]:
        """Tells a file from one that was put in its place: size in bytes, and time of the last change."""
        if self.member is not None:
            info = _archive(self.path).getinfo(self.member)
            return info.file_size, info.CRC
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def read(self) -> Image.Image:
        """The RGB image, by the one reader: `util.images.reader`.

        Raises:
            MissingPackage, one of util.images.reader.UNREADABLE, or zipfile.BadZipFile.
        """
        if self.member is None:
            return read_image(self.path)
        info = _archive(self.path).getinfo(self.member)
        with huge_images_in_turn():
            take_turn(num_bytes=info.file_size)
            return read_image(_Content(read_member(_archive(self.path), info), self.where))


@dataclass(frozen=True)
class Listing:
    """What some inputs hold."""

    sources: list[Source]  # in the order of the inputs, by name within each
    unusable: list[tuple[str, str]]  # (path, why it cannot be read)
    ignored: list[str]  # paths of what is no image
    num_repeated: int  # images that were named more than once


@dataclass
class _Found:
    """What turns up on the way: (path or archive, member or None)."""

    images: list[tuple[Path, str | None]]
    unusable: list[tuple[str, str]]
    ignored: list[str]


def list_sources(inputs: Iterable[str]) -> Listing:
    """The images that inputs name.

    A folder is searched with all below it, an archive too; of these only files that look like images count. A file
    that is named by itself counts whatever it looks like. Hidden files are passed over, and so are the pictures with
    boxes that a prediction has drawn.

    Args:
        inputs: files, folders, zip archives, or patterns such as "a/**/*.png".

    Raises:
        UserError: an input is not there, or holds no image.
    """
    found = _Found([], [], [])
    bases = []
    for text in inputs:
        before = len(found.images) + len(found.unusable)
        num_ignored = len(found.ignored)
        bases += _search(text, found)
        if len(found.images) + len(found.unusable) == before:
            ignored = found.ignored[num_ignored:]
            seen = f"; ignored: {first_few(ignored)}" if ignored else ""
            raise UserError(f"{text}: holds no image{seen}; give image files, folders, zip archives or patterns")
    base = os.path.commonpath(bases)
    sources: dict[str, Source] = {}
    for path, member in found.images:
        real = os.path.normpath(f"{os.path.realpath(path)}/{member or ''}")
        virtual = os.path.abspath(path if member is None else path / member)
        source = Source(PurePosixPath(os.path.relpath(virtual, base)).as_posix(), path, member)
        if len(os.fsencode(max(source.name.split("/"), key=lambda part: len(os.fsencode(part))))) > LONGEST_NAME:
            found.unusable.append((source.where, f"its name is longer than {LONGEST_NAME} bytes; rename it"))
        else:
            sources.setdefault(real, source)
    repeated = len(found.images) - len(sources) - sum(1 for _, why in found.unusable if why.startswith("its name is"))
    return Listing(list(sources.values()), found.unusable, found.ignored, repeated)


def _search(text: str, found: _Found) -> list[str]:
    """Add what an input holds; the folders that names may be shortened by."""
    path = Path(text)
    if path.is_dir():
        _walk(path, found)
        return [os.path.abspath(path)]
    if path.suffix.lower() == ".zip" and path.is_file():
        _unpack(path, found)
        return [os.path.abspath(path)]
    if path.exists():
        found.images.append((path, None))
        return [os.path.abspath(path.parent)]
    if not glob.has_magic(text):
        raise UserError(f"{text}: no such file or folder; check the path")
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise UserError(f"{text}: matches no file; check the pattern")
    for match in map(Path, matches):
        if match.is_dir():
            if "**" not in text:  # which reaches what is below by itself
                _walk(match, found)
        elif match.suffix.lower() == ".zip":
            _unpack(match, found)
        else:
            _sort(match, found)
    literal = re.split(r"[*?\[]", text)[0]
    return [os.path.abspath(os.path.dirname(literal) or ".")]


def _walk(folder: Path, found: _Found) -> None:
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, onerror=lambda error: _note(error, found), followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in NO_FOLDERS)
        if os.path.realpath(where) in seen:  # a link back
            folders.clear()
            continue
        seen.add(os.path.realpath(where))
        for name in sorted(files):
            _sort(Path(where) / name, found)


def _note(error: OSError, found: _Found) -> None:
    found.unusable.append((str(error.filename), f"{error.strerror}; check the permissions of the folder"))


def _sort(path: Path, found: _Found) -> None:
    """A file on the way: an image, nothing of interest, or neither."""
    if path.name.startswith(".") or _is_drawn(path):
        return
    try:
        is_image = is_regular(path.stat()) and (
            path.suffix.lower() in ENDINGS or (path.name not in NO_IMAGES and is_dicom(path))
        )
    except OSError as error:
        found.unusable.append((str(path), f"{error.strerror}; check the file and its permissions"))
        return
    if is_image:
        found.images.append((path, None))
    else:
        found.ignored.append(str(path))


def _is_drawn(path: Path) -> bool:
    """Whether a prediction, this one or another, drew the picture: its boxes would be found again."""
    parents = Path(os.path.realpath(path)).parents
    return any(p.name == PICTURES and (p.parent / FILE).is_file() for p in parents)


def _unpack(path: Path, found: _Found) -> None:
    """The images of an archive, none of which is written to the disk."""
    try:
        members = sorted(_archive(path).infolist(), key=lambda info: info.filename)
    except DAMAGED_ARCHIVE as error:
        found.unusable.append((str(path), f"cannot be read as a zip archive ({error}); copy it again"))
        return
    for info in members:
        parts = re.split(r"[/\\]", info.filename)
        if info.is_dir() or any(p.startswith(".") and p not in (".", "..") for p in parts) or NO_FOLDERS & set(parts):
            continue
        if problem := _problem(info, parts):
            found.unusable.append((f"{path}/{info.filename}", problem))
        elif _looks_like_image(path, info):
            found.images.append((path, info.filename))
        else:
            found.ignored.append(f"{path}/{info.filename}")


def _problem(info: zipfile.ZipInfo, parts: list[str]) -> str | None:
    if ".." in parts or info.filename.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", info.filename):
        return "its name leads out of the archive; pack it anew"
    if info.file_size > LARGEST_MEMBER:
        return f"unpacks to {info.file_size} bytes; more than {LARGEST_MEMBER} are not read; unpack it by hand"
    return None


def _looks_like_image(path: Path, info: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(info.filename)
    if name.suffix.lower() in ENDINGS:
        return True
    if name.suffix or name.name in NO_IMAGES or info.flag_bits & 1:  # DICOM mostly has no ending; encrypted
        return False
    try:
        require_known_method(info)
        with _archive(path).open(info) as file:
            return is_dicom(BytesIO(file.read(132)))
    except (*DAMAGED_ARCHIVE, zlib.error, EOFError):
        return False


@lru_cache(maxsize=8)
def _archive(path: Path) -> zipfile.ZipFile:
    """An open archive; several threads may read from it."""
    require_regular(path)
    return zipfile.ZipFile(path)


class _Content(BytesIO):
    """The content of a file in an archive, with the name that messages give it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name
