"""Findings of the data checks: one line per kind of defect, with counts, examples and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from util.base.errors import DataError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One kind of defect. Training refuses an error and logs a warning; a note needs no action before training."""

    kind: str  # a short name, such as "missing"
    text: str
    severity: Severity = "error"


def refuse_errors(findings: Iterable[Finding], headline: str) -> list[str]:
    """Raise the errors among the findings; return the warnings.

    Raises:
        DataError: `headline`, and a line per error.
    """
    findings = list(findings)
    errors = [finding.text for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError("\n  ".join([headline, *errors]))
    return [finding.text for finding in findings if finding.severity == "warning"]
