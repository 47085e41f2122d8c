"""Find the image files that listed names mean although they differ: in prefix, ending, case, encoding and the like."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from util.base.errors import DataError

# Endings of image files. Other dots are part of a name: 1.2.840.113619 is no file of type .113619.
ENDING = re.compile(r"\.(png|jpe?g|bmp|tiff?|dcm|dicom|webp|gif)$", re.IGNORECASE)
UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the name of an uploaded file
ESCAPED = re.compile("[\udc80-\udcff]")  # bytes in names of files that are not UTF-8
UNCLEAN = re.compile(r"[\\%?:\s]|(^|/)\.?(/|$)")  # what `_cleaned` would change
MOST_CANDIDATES = 100  # with one base name; comparing more takes long
ENCODINGS = ("latin-1", "cp1252", "cp437")  # that UTF-8 names are mistaken for by locales and zip programs


@dataclass(frozen=True)
class NameMatch:
    """The image file that a listed name means, and how the names differ."""

    file: str  # relative to the image folder
    rule: str  # what turns the listed name into it, such as "drop the prefix 'images/'"


def leaves_folder(name: str) -> bool:
    """Whether a file name leads out of the image folder."""
    return "\0" in name or name.startswith("/") or ".." in name.split("/")


def missing_names(folder: Path, names: Iterable[str]) -> list[str]:
    """Names that stay in the folder but have no file. Folders are listed once each: network disks are slow."""
    parts = [(name, *name.rpartition("/")[::2]) for name in names if not leaves_folder(name)]
    files = {parent: _list_files(folder / parent) for parent in {parent for _, parent, _ in parts}}
    return [name for name, parent, base in parts if base not in files[parent]]


def match_names(folder: Path, listed: Sequence[str]) -> dict[str, NameMatch]:
    """The files in `folder` that listed names without a file mean; a name that could mean two files has none.

    Files that another listed name has, or that two names could mean, are left out too.
    """
    lost = [*dict.fromkeys([*filter(leaves_folder, listed), *missing_names(folder, listed)])]
    if not lost:
        return {}
    known = {os.path.normpath(name) for name in {*listed}.difference(lost)}
    files = [_Name(file) for file in _walk(folder) if file not in known]
    names = {name: _Name(name) for name in lost}
    matches: dict[str, str] = {}
    for key in range(len(_Name("").keys)):
        by_key = defaultdict(list)
        for file in files:
            by_key[file.keys[key]].append(file)
        for name in [name for name in lost if name not in matches]:
            if candidates := by_key.get(names[name].keys[key]):
                matches[name] = _closest(names[name], candidates)
    claims = Counter(matches.values())
    return {
        name: NameMatch(file, _rule(names[name], _Name(file)))
        for name, file in matches.items()
        if file and claims[file] == 1
    }


def _list_files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is_file(entry)}
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):  # the last: no disk can have such a name
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, after following links; a circular link is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _walk(folder: Path) -> list[str]:
    """Image files at any depth, relative to the folder; hidden ones are left out, and folders that cannot be read."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        start = os.path.relpath(place, folder)
        start = "" if start == "." else f"{start}/"
        found += [f"{start}{name}" for name in names if _may_be_image(name)]
    return found


def _may_be_image(name: str) -> bool:
    """Whether a file may be an image: by its ending, or without one, as DICOM often is."""
    return not name.startswith(".") and bool(ENDING.search(name) or not re.search(r"\.[A-Za-z]+$", name))


def _cleaned(name: str) -> str:
    """The path in a URL, percent signs decoded, with slashes, without blanks around its parts."""
    if not UNCLEAN.search(name):
        return name
    if "://" in name or "?d=" in name:
        name = _path_of_url(name)
    parts = [part.strip() for part in unquote(name).replace("\\", "/").split("/")]
    return "/".join(part for part in parts if part not in ("", "."))


def _path_of_url(name: str) -> str:
    """The path in a URL, or, as in those of Label Studio, in its query."""
    try:
        url = urlsplit(name)
        return parse_qs(url.query).get("d", [url.path])[0]
    except ValueError:  # brackets that are no address
        return name


def _decoded(name: str) -> str:
    """The name whose UTF-8 bytes were read in another encoding, or whose bytes are Latin-1."""
    if name.isascii():
        return name
    spellings = [_recoded(name, encoding, "utf-8") for encoding in ENCODINGS]
    if ESCAPED.search(name):
        spellings.append(_recoded(name, "utf-8", "latin-1"))
    return next(filter(None, spellings), name)


def _recoded(name: str, wrong: str, right: str) -> str:
    """The name whose bytes were read in the wrong encoding; empty where they cannot have been."""
    try:
        return _nfc(name.encode(wrong, "surrogateescape" if wrong == "utf-8" else "strict").decode(right))
    except UnicodeError:
        return ""


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


# From the least change to the most, one upon the other; each with the rule that it is in messages.
SPELLINGS: tuple[tuple[Callable[[str], str], str], ...] = (
    (str, ""),
    (_nfc, "another Unicode form"),
    (_cleaned, "no URL, backslash or blank"),
    (_decoded, "another character encoding"),
    (lambda name: _nfc(name.casefold()), "upper or lower case"),
)
CLEANED = 2  # its place among them


class _Name:
    """A listed name or a file: its spellings, and what must be equal in both, from nearly all to little."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.spellings = [name]
        for change, _ in SPELLINGS[1:]:
            self.spellings.append(change(self.spellings[-1]))
        *self.folders, base = self.spellings[-1].split("/")
        stem = ENDING.sub("", base)
        self.keys = (*self.spellings[1:], base, stem, UPLOAD.sub("", stem))


def _closest(name: _Name, candidates: Collection[_Name]) -> str:
    """The one candidate that has most of the name's folders, or else its letters; empty where it is not one."""
    if len(candidates) > MOST_CANDIDATES:
        return ""
    ranks = [(_common_folders(name, file), _base(file.name) == _base(name.spellings[CLEANED])) for file in candidates]
    best = [file.name for file, rank in zip(candidates, ranks, strict=True) if rank == max(ranks)]
    return best[0] if len(best) == 1 else ""


def _common_folders(name: _Name, file: _Name) -> int:
    """How many folders, counted from the file, two paths have in common."""
    pairs = zip(reversed(name.folders), reversed(file.folders), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _rule(name: _Name, file: _Name) -> str:
    """What turns a listed name into the name of its file, in words."""
    for n, (spelling, goal) in enumerate(zip(name.spellings, file.spellings, strict=True)):
        if (changes := _changes(spelling, goal)) is not None:
            acting = [m for m in range(1, n + 1) if _changes_either(m, name, file)]
            return ", ".join([*(SPELLINGS[m][1] for m in acting), *changes])
    return "drop the prefix of an upload"


def _changes_either(n: int, *names: _Name) -> bool:
    return any(name.spellings[n] != name.spellings[n - 1] for name in names)


def _changes(name: str, file: str) -> list[str] | None:
    """How folders and the ending change, in words; None where the base names differ in more than the ending."""
    stem, goal_stem = (ENDING.sub("", _base(path)) for path in (name, file))
    if stem != goal_stem:
        return None
    folder, goal = (path[: len(path) - len(_base(path))] for path in (name, file))
    changes = []
    if folder != goal and folder.endswith(f"/{goal}" if goal else ""):
        changes.append(f"drop the prefix '{folder[: len(folder) - len(goal)]}'")
    elif folder != goal and goal.endswith(f"/{folder}" if folder else ""):
        changes.append(f"add the folder '{goal[: len(goal) - len(folder)]}'")
    elif folder != goal:
        changes.append(f"'{goal}' for '{folder}'")
    ending, goal_ending = (_base(path)[len(stem) :] for path in (name, file))
    if ending and goal_ending and ending != goal_ending:
        changes.append(f"'{goal_ending}' for '{ending}'")
    elif ending != goal_ending:
        changes.append(f"add '{goal_ending}'" if goal_ending else f"drop '{ending}'")
    return changes
