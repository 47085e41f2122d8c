"""Whether a DICOM file is a frontal chest radiograph, as far as its header tells."""

from __future__ import annotations

import re
import unicodedata

from util.images.common import ImageFacts

RADIOGRAPHS = ("CR", "DX", "RG")  # modalities: computed, digital and film radiography
CAPTURES = ("SC", "OT")  # of secondary captures, such as a radiograph that was scanned or saved by another program
CHESTS = re.compile(r"CHEST|CHST|CXR|THORA|TORA|LUNG|PULMO|胸")  # how a word of a body part begins, without accents
UNKNOWN = ("", "UNKNOWN", "UNDEFINED", "UNSPECIFIED")
LATERALS = re.compile(r"(LL|RL|LAT.*|[LR]LAT.*)")  # a word of a view position
FRONTALS = {"AP", "PA"}  # beside a lateral word: lying on the side, as AP LAT DECUB
FRONT_OR_BACK = ("A", "P")  # where the rows of a lateral view lead to


def why_no_frontal_chest(facts: ImageFacts) -> str | None:
    """Why an image is not predicted; None for a frontal chest radiograph, or where the header does not tell."""
    modality = (facts.modality or "").strip().upper()
    if modality and modality not in RADIOGRAPHS and not (modality in CAPTURES and facts.is_secondary):
        return f"modality {modality} instead of {', '.join(RADIOGRAPHS)}"
    body_part = (facts.body_part or "").strip().upper()
    if body_part not in UNKNOWN and not any(map(CHESTS.match, _words(body_part))):
        return f"body part {body_part} instead of CHEST"
    view = (facts.view or "").strip().upper()
    words = _words(view)
    if any(map(LATERALS.fullmatch, words)) and not FRONTALS & {*words}:
        return f"lateral view ({view})"
    if facts.orientation and facts.orientation[0][:1].upper() in FRONT_OR_BACK:
        return f"lateral view (rows lead to {facts.orientation[0]})"
    return None


def _words(text: str) -> list[str]:
    """The words of a text without accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W\d_]+", plain)
