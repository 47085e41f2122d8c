"""Category ids to class indices, in their order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from util.detection.class_map import IDENTITY, ClassMap

IDS = st.sets(st.integers(0, 2**63 - 1), min_size=1, max_size=20)


def test_classes_are_the_ids_in_rising_order():
    classes = ClassMap.of([2**62, 7, 40])
    assert classes.ids == (7, 40, 2**62)
    assert classes.indices([40, 2**62, 7]) == (1, 2, 0)
    assert classes.to_index(np.array([7, 8, 2**62 + 1, 0])).tolist() == [0, -1, -1, -1]


def test_ids_from_0_without_gaps_are_the_class_indices():
    assert ClassMap.of([1, 0, 2]) == IDENTITY
    labels = np.array([5, 2**62])
    assert IDENTITY.to_index(labels) is labels


@given(IDS)
def test_every_id_has_its_class(ids):
    classes = ClassMap.of(ids)
    assert classes.indices(sorted(ids)) == tuple(range(len(ids)))
