"""How many bits the samples of 16-bit files use: one rule for a folder, from headers, else from the highest value.

A scanner of 12 bits stores values from 0 to 4095, also in a file of 16 bits. Scaled by 65535 they are nearly black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from util.base.errors import DataError
from util.base.text import first_few

CONTAINER = 16  # bits of a sample in the files that this is about
DEPTHS = (8, 10, 12, 14, CONTAINER)  # of scanners; the smallest one that holds all values is taken
DARK_BITS = 4  # bits below the depth of the folder: a file with no higher value has 16 of 256 grey levels left
Orientation = Literal["stored", "apply"]
DepthSetting = int | Literal["auto"]


@dataclass(frozen=True)
class ReadingRules:
    """How the files of one folder are read; by default each file as if it were a folder of its own."""

    depth: int | None = None  # bits that 16-bit samples use, higher values become white; None: inferred for each file
    orientation: Orientation = "stored"  # pixels as the file stores them, or turned as its orientation tag says
    usual: int | None = None  # bits in the training of the network, which count where nothing is set or stated

    @property
    def suffix(self) -> str:
        """What differs from the default, for the identity of cached pixels; empty where nothing does."""
        parts = [f"{self.depth} bits"] if self.depth else []
        return "".join(f", {part}" for part in [*parts, *(["turned"] if self.orientation == "apply" else [])])


ALONE = ReadingRules()


@dataclass(frozen=True)
class SampleDepth:
    """What a file with 16-bit samples tells of the bits they use."""

    stated: int | None = None  # in its header: PNG sBIT, TIFF MaxSampleValue
    highest: int | None = None  # value of its pixels; None: only the header was read

    def alone(self, usual: int | None = None) -> int:
        """The depth of the file if it were alone; `usual` as in `ReadingRules`."""
        highest = self.highest or 0
        return self.stated if self.stated and highest < 1 << self.stated else likely_depth(highest, usual)


@dataclass(frozen=True)
class FolderDepth:
    """The rule for the 16-bit files of a folder."""

    depth: int | None = None  # bits; None: there are no such files
    summary: str = ""  # for the log; empty without such files
    is_guess: bool = False  # inferred from values alone, and not all 16 bits
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The summary and the warnings, as lines of a log."""
        head = f"warning: {self.summary}" if self.is_guess else self.summary
        return [*([head] if head else []), *(f"warning: {text}" for text in self.warnings)]


NONE_DEEP = FolderDepth()


def smallest_depth(highest: int) -> int:
    """The smallest of DEPTHS that holds a value."""
    return next((depth for depth in DEPTHS if highest < 1 << depth), CONTAINER)


def likely_depth(highest: int, usual: int | None) -> int:
    """The usual depth where a highest value fits it and would not be nearly black, else the smallest that holds it."""
    fits = usual is not None and highest < 1 << usual and highest >> (usual - DARK_BITS) > 0
    return usual if usual is not None and fits else smallest_depth(highest)


def choose_depth(
    setting: DepthSetting, files: Mapping[str, SampleDepth], knob: str, usual: int | None = None
) -> FolderDepth:
    """Choose the depth of the 16-bit files of a folder.

    Args:
        setting: bits, or "auto": as the headers state, else inferred from the highest value of all files.
        files: what each file with 16-bit samples tells, by name.
        knob: how the setting is given, such as "--options image_depth=", for messages.
        usual: bits in the training of the network that the files are for; None: not known.

    Raises:
        DataError: with "auto", headers contradict each other or the values.
    """
    if not files:
        return NONE_DEEP
    highest = max(files, key=lambda name: files[name].highest or 0)
    top = files[highest].highest or 0
    if setting != "auto":
        text = f"{_count(files)} are read as {setting} bits, as {knob}{setting} says"
        return FolderDepth(setting, text, warnings=_doubts(setting, files, knob, is_set=True))
    stated = {file.stated: name for name, file in reversed(list(files.items())) if file.stated}
    if len(stated) > 1:
        examples = first_few([f"{bits} bits in {stated[bits]}" for bits in sorted(stated)])
        raise DataError(
            f"{_count(files)} state different depths in their headers: {examples}; one folder is read by one rule: "
            f"give it as {knob}{max(stated)}, or keep the files in folders of their own"
        )
    if not stated:
        depth = likely_depth(top, usual)
        is_guess = depth < CONTAINER and depth != usual
        reason = f"by their highest value {top} in {first_few([highest])}"
        reason += f", a guess; {knob}BITS sets another depth" if is_guess else ""
        reason = "as in the training of the checkpoint" if depth == usual else reason
        text = f"{_count(files)} are read as {depth} bits, {reason}"
        return FolderDepth(depth, text, is_guess, _doubts(depth, files, knob))
    depth = next(iter(stated))
    if top >= 1 << depth:
        raise DataError(
            f"{first_few([stated[depth]])}: its header states {depth} bits per sample, but values go up to {top} in "
            f"{first_few([highest])}; {knob}{smallest_depth(top)} reads the values, {knob}{depth} cuts them off"
        )
    text = f"{_count(files)} are read as {depth} bits, as the header of {first_few([stated[depth]])} states"
    return FolderDepth(depth, text, warnings=_doubts(depth, files, knob))


def _count(files: Mapping[str, SampleDepth]) -> str:
    return f"{len(files)} images of 16-bit samples"


def _doubts(depth: int, files: Mapping[str, SampleDepth], knob: str, *, is_set: bool = False) -> tuple[str, ...]:
    """Warnings of files that the depth does not fit."""
    warnings = []
    cut = [name for name, file in files.items() if (file.highest or 0) >= 1 << depth]
    if cut and is_set:
        fitting = smallest_depth(max(files[name].highest or 0 for name in cut))
        warnings.append(
            f"{len(cut)} of {_count(files)} have values above {(1 << depth) - 1}, which become white: "
            f"{first_few(cut)}; {knob}{fitting} holds them all"
        )
    dark = {
        name: file.highest for name, file in files.items() if file.highest and file.highest >> (depth - DARK_BITS) == 0
    }
    if dark:
        fitting = smallest_depth(max(dark.values()))
        warnings.append(
            f"{len(dark)} of {_count(files)} become nearly black at {depth} bits: {first_few(list(dark))}; "
            f"{knob}{fitting} fits these, if the higher values of others are marks on the image"
        )
    return tuple(warnings)
