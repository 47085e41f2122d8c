"""A training that is shorter than its recipe is allowed, and what it never comes to is a warning."""

from pathlib import Path

import pytest

from util.config import flatten, load_config
from util.config.never_happens import NEVER_HAPPENS, never_happens

RECIPES = sorted((Path(__file__).parents[3] / "config/DINO").glob("*.py"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_one_epoch_with_one_option(recipe):
    config = flatten(load_config(recipe, ["epochs=1"]))
    assert config["epochs"] == 1
    late = config["lr_schedule"] == "multistep" and config["lr_drop"]
    assert any(text.startswith("lr_drop") for text in never_happens(config)) == bool(late)
    assert never_happens(flatten(load_config(recipe))) == []


@pytest.mark.parametrize(
    ("option", "warning"),
    [
        ("lr_drop=[5,60]", "lr_drop [60] never happens: training ends after epoch 49"),
        ("eval_every=51", "eval_every 51 never happens in 50 epochs: only the last epoch is evaluated"),
        ("eval_every=50", None),
        ("save_checkpoint_interval=51", "save_checkpoint_interval 51 never happens in 50 epochs: none is kept"),
        ("data_aug_mix_end_epoch=51", None),  # there is no mixing
    ],
)
def test_what_comes_after_the_end_is_a_warning(option, warning):
    config = load_config(RECIPES[0].with_name("DINO_4scale_tbx11k.py"), [option])
    assert never_happens(flatten(config)) == ([warning] if warning else [])


def test_mixing_that_does_not_end():
    options = ["data_aug_mosaic=0.5", "data_aug_mix_end_epoch=40", "epochs=2", "lr_drop=[]"]
    config = load_config(RECIPES[0].with_name("DINO_4scale_tbx11k.py"), options)
    assert never_happens(flatten(config)) == [
        "data_aug_mix_end_epoch 40 never happens in 2 epochs: mosaic and copy-paste do not end"
    ]
    assert len(NEVER_HAPPENS) == 4
