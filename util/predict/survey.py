"""What the headers of all images of a prediction say, before the first one is read: how they are read, and which."""

from __future__ import annotations

import zipfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from util.base.console import Progress
from util.base.errors import MissingPackage
from util.base.threads import read_each
from util.images import UNREADABLE, ImageFacts
from util.images.depth import ALONE, NONE_DEEP, DepthSetting, FolderDepth, Orientation, ReadingRules, choose_depth
from util.images.orientation import AS_STORED, describe_turned
from util.images.radiographs import why_no_frontal_chest
from util.predict.inputs import ImageInput


@dataclass(frozen=True)
class Excluded:
    """An image that is not predicted, as it is no frontal chest radiograph by its header."""

    file: str
    facts: ImageFacts
    reason: str


@dataclass(frozen=True)
class Survey:
    """How the images of a prediction are read, and which of them are predicted."""

    images: list[ImageInput] = field(default_factory=list)  # to predict, with the rules by which they are read
    facts: Mapping[str, ImageFacts] = field(default_factory=dict)  # of these by name, where the header could be read
    excluded: list[Excluded] = field(default_factory=list)
    rules: ReadingRules = ALONE
    depth: FolderDepth = NONE_DEEP
    turned: str = ""  # on orientation tags, for a log; empty where no image has one

    @property
    def has_dicom(self) -> bool:
        """Whether any image is DICOM."""
        return bool(self.excluded) or any(facts.is_dicom for facts in self.facts.values())

    @property
    def warnings(self) -> list[str]:
        """What the user should know."""
        of_depth = [self.depth.summary] if self.depth.is_guess else []
        return [*of_depth, *self.depth.warnings, *([self.turned] if self.turned else [])]


def survey_images(
    images: Sequence[ImageInput],
    ids: Container[str],
    *,
    depth: DepthSetting,
    usual_depth: int | None = None,
    orientation: Orientation,
    takes_all: bool,
) -> Survey:
    """Read the headers of images, and the pixels of those with 16-bit samples.

    Args:
        images: all that are listed; they are one folder with one rule.
        ids: names of those to predict.
        depth: bits that 16-bit samples use, or "auto".
        usual_depth: bits in the training of the network, as in `ReadingRules`.
        orientation: whether images are turned by their tags.
        takes_all: predict what is no frontal chest radiograph by its header, too.

    Raises:
        DataError: headers and values of 16-bit images contradict each other.
    """
    progress = Progress("reading the headers", len(images), "images")
    facts: dict[str, ImageFacts] = {}
    for results in read_each(_facts_of, images):
        facts.update({name: read for name, read in results if read is not None})
        progress.advance(len(results))
    progress.close()
    chosen = [image for image in images if image.name in ids]
    reasons = {} if takes_all else {name: why_no_frontal_chest(read) for name, read in facts.items()}
    kept = [image for image in chosen if not reasons.get(image.name)]
    excluded = [
        Excluded(image.where, facts[image.name], reason) for image in chosen if (reason := reasons.get(image.name))
    ]
    samples = {image.where: read for image in images if image.name in facts and (read := facts[image.name].samples)}
    found = choose_depth(depth, samples, "--image_depth ", usual_depth)
    rules = ReadingRules(found.depth, orientation)
    known = {image.name: facts[image.name] for image in kept if image.name in facts}
    tags = {name: read.turn for name, read in known.items() if read.turn != AS_STORED}
    frame = "they are turned, and boxes are in pixels of the turned images"
    if orientation == "stored":
        frame = "pixels and boxes are as stored; --orientation apply turns them"
    return Survey(
        [replace(image, rules=rules) for image in kept],
        known,
        excluded,
        rules,
        found,
        f"{describe_turned(tags, len(kept))}; {frame}" if tags else "",
    )


def _facts_of(image: ImageInput) -> tuple[str, ImageFacts | None]:
    """The facts of an image by name; None where it cannot be read, which reading it for the network will report."""
    try:
        facts = image.read_facts()
        return image.name, replace(facts, samples=image.read_samples()) if facts.samples else facts
    except MissingPackage:
        raise
    except (*UNREADABLE, zipfile.BadZipFile):
        return image.name, None
