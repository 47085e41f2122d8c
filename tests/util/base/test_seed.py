import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.base.seed import derive_generator, derive_rng, derive_seed, seed_everything

NAMES = st.tuples(
    st.integers(0, 2**31 - 1),
    st.sampled_from(["order", "augment", "noise"]),
    st.integers(0, 1000),
    st.integers(0, 10**6),
)


def test_a_name_means_the_same_seed_for_ever():
    assert derive_seed(42, "order", 0) == 6588392042649879958
    assert derive_seed(42, "augment", 3, 17) == 2566640047333539741


@given(NAMES, NAMES)
def test_other_names_have_other_seeds(one, other):
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@given(NAMES)
def test_a_seed_fits_every_generator(name):
    assert 0 <= derive_seed(*name) < 2**63
    assert derive_rng(*name).random() == derive_rng(*name).random()
    assert torch.equal(
        torch.rand(3, generator=derive_generator(*name)), torch.rand(3, generator=derive_generator(*name))
    )


def test_a_derived_draw_leaves_the_global_generators_alone():
    seed_everything(1)
    wanted = (random.random(), np.random.random(), torch.rand(1).item())
    seed_everything(1)
    derive_rng(5, "x").random(3)
    torch.rand(3, generator=derive_generator(5, "x"))
    assert (random.random(), np.random.random(), torch.rand(1).item()) == wanted


def test_neighbouring_epochs_draw_independently():
    draws = np.array([derive_rng(42, "augment", epoch, 7).random(200) for epoch in range(10)])
    correlations = np.corrcoef(draws)[np.triu_indices(10, 1)]
    assert np.abs(correlations).max() < 0.3  # the standard deviation of one is 1 / sqrt(200) = 0.07
