"""Randomness that is derived, not stored: every draw has a name, and its generator follows from the name."""

import random

import numpy as np
import torch


def derive_seed(*name: int | str) -> int:
    """A 63-bit seed from a name such as (seed, "augment", epoch, image_id); equal on every platform."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in name]
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint32).tolist()
    return (high << 31 ^ low) & (2**63 - 1)


def derive_rng(*name: int | str) -> np.random.Generator:
    """A numpy generator named as in `derive_seed`."""
    return np.random.default_rng(derive_seed(*name))


def derive_generator(*name: int | str) -> torch.Generator:
    """A CPU torch generator named as in `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*name))


def seed_everything(seed: int) -> None:
    """Seed the global generators, for what draws without a name: weight initialisation, dropout."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
