"""What a check of the data finds: one line per kind of defect, with counts, examples and the mend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from util.base.errors import DataError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of defect.

    Severity: training refuses an error, goes on with a warning and says so; a note is worth knowing and needs no mend
    before training.
    """

    kind: str  # a short name, such as "missing"
    text: str
    severity: Severity = "error"


def refuse_errors(findings: Iterable[Finding], headline: str) -> list[str]:
    """The warnings among the findings.

    Raises:
        DataError: `headline`, and a line per error.
    """
    findings = list(findings)
    errors = [finding.text for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError("\n  ".join([headline, *errors]))
    return [finding.text for finding in findings if finding.severity == "warning"]
