"""Comparison of two configs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from util.config.schema import MAY_CHANGE, MayChange


@dataclass(frozen=True)
class Change:
    """A knob whose value differs between two configs."""

    knob: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.knob} {self.before!r} -> {self.after!r}"

    @property
    def may_change(self) -> MayChange:
        """Return whether a resume may make the change; with a warning if this version does not have the knob."""
        return MAY_CHANGE.get(self.knob, "with a warning")


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """List the knobs whose values differ between the flat configs `a` and `b`, in the order of `b`.

    A knob missing from one of them is not compared; a list equals a tuple of the same values, as JSON has only lists.
    """
    return [Change(k, a[k], b[k]) for k in b if k in a and _as_list(a[k]) != _as_list(b[k])]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
