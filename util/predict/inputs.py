"""The images that files, folders, patterns and zip archives on a command line stand for."""

from __future__ import annotations

import glob
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TypeVar

from PIL import Image

from util.base.console import print_note
from util.base.errors import UserError
from util.base.reading import DAMAGED_ARCHIVE, is_regular, read_member, require_known_method, require_regular
from util.base.text import first_few
from util.images import ImageFacts, huge_images_in_turn, is_dicom, read_facts
from util.images.depth import ALONE, ReadingRules, SampleDepth
from util.images.dicom_head import HEAD_BYTES
from util.images.huge_images import take_turn
from util.images.reader import MAX_FILE_BYTES, Reading, read_with_facts
from util.predict.outputs import PICTURES_FOLDER, PROGRESS_FILE

# Endings of images in a folder or an archive. DICOM is known by its content.
ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".j2k", ".pgm", ".ppm"),
    *(".dcm", ".dicom"),
}
NO_IMAGES = {"DICOMDIR", "Thumbs.db"}
NO_FOLDERS = {"__MACOSX"}
LONGEST_NAME = 200  # bytes of a part of a path: the image with boxes gets the name and an ending
Out = TypeVar("Out")
LARGEST_MEMBER = MAX_FILE_BYTES  # bytes of a file in an archive


@dataclass(frozen=True)
class ImageInput:
    """One image to read."""

    name: str  # its path below what all inputs have in common; unlike all others
    path: Path  # the file, or the archive
    member: str | None = None  # the file in the archive
    rules: ReadingRules = ALONE  # by which it is read

    @property
    def where(self) -> str:
        """The whole path; of a file in an archive, below that of the archive."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def stamp(self) -> tuple[int, int]:
        """Size in bytes and time of the last change (in an archive: checksum), which tell a changed file."""
        if self.member is not None:
            info = _archive(self.path).getinfo(self.member)
            return info.file_size, info.CRC
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def read(self) -> Image.Image:
        """Read the RGB image with `util.images.reader`.

        Raises:
            MissingPackage, one of util.images.reader.UNREADABLE, or zipfile.BadZipFile.
        """
        return self._with_content(self._reading).image

    def read_samples(self) -> SampleDepth | None:
        """Read the image for what tells the depth of its 16-bit samples; None where it has others.

        Raises:
            as `read`.
        """
        return self._with_content(self._reading).samples

    def read_facts(self) -> ImageFacts:
        """Read the facts of the header.

        Raises:
            as `read`.
        """
        return self._with_content(read_facts)

    def _reading(self, content: Path | BytesIO) -> Reading:
        return read_with_facts(content, self.rules)

    def _with_content(self, read: Callable[[Path | BytesIO], Out]) -> Out:
        """Apply a function to the file, or to the content of a file in an archive."""
        if self.member is None:
            return read(self.path)
        info = _archive(self.path).getinfo(self.member)
        with huge_images_in_turn():
            take_turn(num_bytes=info.file_size)
            return read(_NamedContent(read_member(_archive(self.path), info), self.where))


@dataclass(frozen=True)
class Listing:
    """The content of inputs."""

    images: list[ImageInput]  # in the order of the inputs, by name within each
    unreadable: list[tuple[str, str]]  # (path, why it cannot be read)
    ignored: list[str]  # paths of files that are no images
    num_repeated: int  # images that were named more than once


@dataclass(frozen=True)
class _Search:
    """The collected files."""

    files: list[tuple[Path, str | None]]  # (path or archive, member or None)
    unreadable: list[tuple[str, str]]
    ignored: list[str]


def list_images(inputs: Iterable[str]) -> Listing:
    """List the images that inputs name.

    A folder is searched with all below it, an archive too; of these only files that look like images count. A file
    that is named by itself counts whatever it looks like. Hidden files are skipped, and so are images with boxes that
    a prediction has drawn.

    Args:
        inputs: files, folders, zip archives, or patterns such as "a/**/*.png".

    Raises:
        UserError: an input does not exist, or holds no image.
    """
    search = _Search([], [], [])
    bases = []
    for text in inputs:
        before = len(search.files) + len(search.unreadable)
        num_ignored = len(search.ignored)
        bases += _collect(text, search)
        if len(search.files) + len(search.unreadable) == before:
            ignored = search.ignored[num_ignored:]
            note = f"; ignored: {first_few(ignored)}" if ignored else ""
            raise UserError(f"{text}: holds no image{note}; give image files, folders, zip archives or patterns")
    base = os.path.commonpath(bases)
    images: dict[str, ImageInput] = {}
    num_repeated = 0
    for path, member in search.files:
        real = os.path.normpath(f"{os.path.realpath(path)}/{member or ''}")
        virtual = os.path.abspath(path if member is None else path / member)
        image = ImageInput(PurePosixPath(os.path.relpath(virtual, base)).as_posix(), path, member)
        if max(len(os.fsencode(part)) for part in image.name.split("/")) > LONGEST_NAME:
            search.unreadable.append((image.where, f"its name is longer than {LONGEST_NAME} bytes; rename it"))
        else:
            num_repeated += real in images
            images.setdefault(real, image)
    return Listing(list(images.values()), search.unreadable, search.ignored, num_repeated)


def number_images(images: Iterable[ImageInput]) -> dict[str, int]:
    """Image ids 1, 2, ... by name."""
    return {image.name: number for number, image in enumerate(images, start=1)}


def match_image_ids(images: Sequence[ImageInput], files_by_id: Mapping[int, str], source: Path) -> dict[str, int]:
    """Image ids by name, for the images that an annotation file lists; their paths end in the names it gives.

    Args:
        images: the images.
        files_by_id: file name by image id.
        source: the annotation file, for messages.

    Raises:
        UserError: it lists none of the images, or two files are the same image of it.
    """
    id_of = {file: image_id for image_id, file in files_by_id.items()}
    ids: dict[str, int] = {}
    matched: dict[int, ImageInput] = {}
    for image in images:
        parts = image.where.split("/")
        endings = ("/".join(parts[n:]) for n in range(len(parts)))  # the longest first
        image_id = next((id_of[ending] for ending in endings if ending in id_of), None)
        if image_id is None:
            continue
        if image_id in matched:
            raise UserError(
                f"{source}: {matched[image_id].where} and {image.where} are both its image {image_id}; give one of them"
            )
        ids[image.name] = image_id
        matched[image_id] = image
    if not ids:
        raise UserError(
            f"{source}: lists none of the images, such as {first_few([i.where for i in images])}; it lists "
            f"{first_few(list(id_of))}"
        )
    if absent := [file for file, image_id in id_of.items() if image_id not in matched]:
        print_note(f"{source}: {len(absent)} of its {len(id_of)} images are not among the inputs: {first_few(absent)}")
    return ids


def _collect(text: str, search: _Search) -> list[str]:
    """Collect the images of an input; returns the folders that names are relative to."""
    path = Path(text)
    if path.is_dir():
        _collect_folder(path, search)
        return [os.path.abspath(path)]
    if path.suffix.lower() == ".zip" and path.is_file():
        _collect_archive(path, search)
        return [os.path.abspath(path)]
    if path.exists():
        search.files.append((path, None))
        return [os.path.abspath(path.parent)]
    if not glob.has_magic(text):
        raise UserError(f"{text}: no such file or folder; check the path")
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise UserError(f"{text}: matches no file; check the pattern")
    for match in map(Path, matches):
        if match.is_dir():
            if "**" not in text:  # which reaches subfolders by itself
                _collect_folder(match, search)
        elif match.suffix.lower() == ".zip":
            _collect_archive(match, search)
        else:
            _collect_file(match, search)
    literal = re.split(r"[*?\[]", text)[0]
    return [os.path.abspath(os.path.dirname(literal) or ".")]


def _collect_folder(folder: Path, search: _Search) -> None:
    visited: set[str] = set()
    for where, folders, files in os.walk(folder, onerror=lambda error: _note_folder(error, search), followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in NO_FOLDERS)
        if os.path.realpath(where) in visited:  # a link back
            folders.clear()
            continue
        visited.add(os.path.realpath(where))
        for name in sorted(files):
            _collect_file(Path(where) / name, search)


def _note_folder(error: OSError, search: _Search) -> None:
    search.unreadable.append((str(error.filename), f"{error.strerror}; check the permissions of the folder"))


def _collect_file(path: Path, search: _Search) -> None:
    """Collect a file of a folder, if it is an image."""
    if path.name.startswith(".") or _is_drawn(path):
        return
    try:
        is_image = is_regular(path.stat()) and (
            path.suffix.lower() in ENDINGS or (path.name not in NO_IMAGES and is_dicom(path))
        )
    except OSError as error:
        search.unreadable.append((str(path), f"{error.strerror}; check the file and its permissions"))
        return
    if is_image:
        search.files.append((path, None))
    else:
        search.ignored.append(str(path))


def _is_drawn(path: Path) -> bool:
    """Whether a prediction drew the image: its boxes would be detected again."""
    parents = Path(os.path.realpath(path)).parents
    return any(p.name == PICTURES_FOLDER and (p.parent / PROGRESS_FILE).is_file() for p in parents)


def _collect_archive(path: Path, search: _Search) -> None:
    """Collect the images of an archive without unpacking it."""
    try:
        members = sorted(_archive(path).infolist(), key=lambda info: info.filename)
    except DAMAGED_ARCHIVE as error:
        search.unreadable.append((str(path), f"cannot be read as a zip archive ({error}); copy it again"))
        return
    for info in members:
        parts = re.split(r"[/\\]", info.filename)
        if info.is_dir() or any(p.startswith(".") and p not in (".", "..") for p in parts) or NO_FOLDERS & set(parts):
            continue
        if problem := _find_problem(info, parts):
            search.unreadable.append((f"{path}/{info.filename}", problem))
        elif _looks_like_image(path, info):
            search.files.append((path, info.filename))
        else:
            search.ignored.append(f"{path}/{info.filename}")


def _find_problem(info: zipfile.ZipInfo, parts: list[str]) -> str | None:
    if ".." in parts or info.filename.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", info.filename):
        return "its name leads out of the archive; pack it again"
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
            return is_dicom(BytesIO(file.read(HEAD_BYTES)))
    except (*DAMAGED_ARCHIVE, zlib.error, EOFError):
        return False


@lru_cache(maxsize=8)
def _archive(path: Path) -> zipfile.ZipFile:
    """An open archive; several threads may read from it."""
    require_regular(path)
    return zipfile.ZipFile(path)


class _NamedContent(BytesIO):
    """The content of a file in an archive, with the name that messages give it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name
