"""The fill rule, on which every golden figure rests."""

import numpy as np

from tests.helpers.golden.fill_rule import uniform, values


def test_the_fill_rule_gives_the_golden_values():
    assert uniform("pixel0", 3).tolist() == [0.933033287525177, 0.4187144637107849, 0.2063380479812622]
    first = {
        ("transformer.enc_out_class_embed.weight", (3, 4)): [0.050425805151462555, 0.4759124517440796],
        ("backbone.0.body.layer1.0.bn3.weight", (5,)): [0.4807082414627075, 0.4442148804664612],
        ("backbone.0.body.conv1.weight", (2, 3, 1, 1)): [0.9955601692199707, -0.504477858543396],
        ("a.gamma", (2,)): [0.3737558424472809, 0.3551684021949768],
    }
    for (key, shape), numbers in first.items():
        assert values(key, shape).ravel()[:2].tolist() == numbers
    aliases = ["class_embed.5.weight", "transformer.decoder.class_embed.2.weight", "class_embed.0.weight"]
    assert all(np.array_equal(values(key, (4, 8)), values(aliases[0], (4, 8))) for key in aliases)
