"""Random generators derived from names such as (seed, "augment", epoch, image): nothing has to be stored."""

import random

import numpy as np
import torch


def derive_seed(*name: int | str) -> int:
    """Derive a 63-bit seed from a name such as (seed, "augment", epoch, image_id); equal on every platform."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in name]
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint32).tolist()
    return (high << 31 ^ low) & (2**63 - 1)


def derive_rng(*name: int | str) -> np.random.Generator:
    """Build a numpy generator with the seed of `derive_seed`."""
    return np.random.default_rng(derive_seed(*name))


def derive_generator(*name: int | str) -> torch.Generator:
    """Build a CPU torch generator with the seed of `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*name))


def seed_everything(seed: int) -> None:
    """Seed the global generators, used by weight initialisation and dropout."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
