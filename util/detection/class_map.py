"""Which class of a network stands for which category of the data. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassMap:
    """The category ids of the classes 0, 1, ... of a network.

    Args:
        ids: in rising order; empty: the class index is the category id, as in the official code.
    """

    ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, category_ids: Collection[int]) -> ClassMap:
        """A class for each category, in rising order of the ids."""
        ids = tuple(sorted(category_ids))
        return cls() if ids == tuple(range(len(ids))) else cls(ids)

    def to_index(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Category ids to class indices; -1 for a category without a class."""
        if not self.ids:
            return labels
        index = np.searchsorted(self._array, labels).clip(max=len(self.ids) - 1)
        return np.where(self._array[index] == labels, index, -1)

    def indices(self, category_ids: Collection[int]) -> tuple[int, ...]:
        """The class index of each category id."""
        return tuple(self.to_index(np.array(list(category_ids), dtype=np.int64)).tolist())

    @cached_property
    def _array(self) -> NDArray[np.int64]:
        return np.array(self.ids, dtype=np.int64)


IDENTITY = ClassMap()
