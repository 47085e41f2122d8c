"""What differs between two configs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from util.config.schema import MAY_CHANGE, MayChange


@dataclass(frozen=True)
class Change:
    """A knob that has another value."""

    knob: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.knob} {self.before!r} -> {self.after!r}"

    @property
    def may_change(self) -> MayChange:
        """Whether a resume may make the change; of a knob that this version does not have: with a warning."""
        return MAY_CHANGE.get(self.knob, "with a warning")


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """Knobs with another value in the flat config `b` than in `a`, in the order of `b`.

    A knob that one of them lacks is not compared; a list is equal to a tuple of the same values, as JSON has it.
    """
    return [Change(k, a[k], b[k]) for k in b if k in a and _listed(a[k]) != _listed(b[k])]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
