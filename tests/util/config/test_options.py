"""Options are read as people write them."""

import pytest

from util.config import ConfigError
from util.config.options import parse_options


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["use_ema=true"], "use_ema", True),
        (["use_ema=FALSE"], "use_ema", False),
        (["use_ema=False"], "use_ema", False),
        (["matcher_focal_alpha=none"], "matcher_focal_alpha", None),
        (["matcher_focal_alpha=null"], "matcher_focal_alpha", None),
        (["backbone_weights=none"], "backbone_weights", "none"),  # of text
        (["image_cache=true"], "image_cache", "true"),
        (["use_ema=yes"], "use_ema", "yes"),  # refused later
        (["lr_drop=[1,2]"], "lr_drop", [1, 2]),
        (["lr_drop=[1,", "2]"], "lr_drop", [1, 2]),
        (["lr_drop=1,2"], "lr_drop", (1, 2)),
        (["lr_drop=1,", "2"], "lr_drop", (1, 2)),
        (["data_aug_scales=480 512"], "data_aug_scales", [480, 512]),
        (["data_aug_scales=480", "512", "544"], "data_aug_scales", [480, 512, 544]),
        (["lr_drop=[]"], "lr_drop", []),
        (["lr_drop=a,b"], "lr_drop", ["a", "b"]),  # refused later
        (["lr_drop="], "lr_drop", ""),
    ],
)
def test_a_value_is_read_as_its_knob_needs_it(words, key, value):
    assert parse_options([*words, "epochs=3"]) == {key: value, "epochs": 3}


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (
            ["image_cache=my", "folder"],
            "option 'folder' is not KEY=VALUE; a value with blanks is quoted: \"image_cache=my",
        ),
        (["epochs=3", "4"], "a value with blanks is quoted"),
        (["512"], "option '512' is not KEY=VALUE"),
    ],
)
def test_what_belongs_to_no_list_is_named_with_the_quoted_form(words, phrase):
    with pytest.raises(ConfigError) as caught:
        parse_options(words)
    assert phrase in str(caught.value)
