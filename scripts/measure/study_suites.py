"""The suites of studies, as data. A new one is a list of cells and a line in SUITES."""

from util.base.errors import UserError
from util.study.design import Cell, Contrast, Options, Phantom, Suite, grid

TRAIN = 1200  # images
EPOCHS = 4
WARMUP = 400  # images over which the learning rate rises
AVERAGED = 400

# short name of a metric -> key of report.json
METRICS = {
    "AP50": "all/agnostic/AP50",
    "AP": "all/per_class/AP",
    "AP50_per_class": "all/per_class/AP50",
    "AP50_tb_only": "tb_only/agnostic/AP50",
    "froc_mean": "all/agnostic/froc_mean",
    "froc@0.125": "all/agnostic/froc@0.125",
    "froc@0.5": "all/agnostic/froc@0.5",
    "froc@1": "all/agnostic/froc@1",
    "froc@4": "all/agnostic/froc@4",
    "auc": "all/image/auc",
    "auc_healthy": "all/image/auc_healthy",
    "auc_sick": "all/image/auc_sick",
    "sensitivity": "all/image/sensitivity",
    "specificity": "all/image/specificity",
    "alarms_healthy": "all/image/false_alarms_healthy",
    "alarms_sick": "all/image/false_alarms_sick",
    "threshold": "operating_point/threshold",
}
# Options of every run. One thread per run: small tensors gain nothing from more.
SHORT = {
    "data_aug_scales": [160, 192, 224],
    "num_workers": 0,
    "epochs": EPOCHS,
    "lr_drop": [EPOCHS - 1],
    "eval_every": EPOCHS,
    "eval_batch_size": 8,
    "bootstrap_draws": 0,
    "operating_rule": "sensitivity",
    "operating_target": 0.8,
    "checkpoint_every_minutes": 1.0,
    "keep_last_checkpoints": 1,
}


def images_per_step(total: int, batch_size: int) -> dict[str, object]:
    """Options for `total` images per step; warm-up and EMA cover the same number of images at every step size."""
    return {
        "batch_size": batch_size,
        "gradient_accumulation_steps": total // batch_size,
        "warmup_steps": WARMUP // total,
        "ema_decay": 1 - total / AVERAGED,
        "ema_warmup_steps": AVERAGED // 2 // total,
        "log_every": 80 // total,
    }


ALPHA = Suite(
    name="alpha",
    title="focal_alpha on data of which 91 % have no box",
    cells=grid(
        {
            "focal_alpha": {
                ".25": ("alpha25", {"focal_alpha": 0.25}),
                ".5": ("alpha50", {"focal_alpha": 0.5}),
                ".75": ("alpha75", {"focal_alpha": 0.75}),
                ".9": ("alpha90", {"focal_alpha": 0.9}),
            },
            "images per step": {
                "1": ("step1", images_per_step(1, 1)),
                "2": ("step2", images_per_step(2, 2)),
                "8": ("step8", images_per_step(8, 8)),
            },
            "sampling": {
                "natural": ("natural", {"positive_fraction": 0.0}),
                "positive_fraction .25": ("positives", {"positive_fraction": 0.25}),
            },
        }
    ),
    references={"focal_alpha": ".25", "images per step": "2", "sampling": "natural"},
    options=SHORT,
    phantom=Phantom(train=TRAIN, val=600, size=256),
    seeds=3,
    metrics=METRICS,
    document="focal_alpha.md",
    contrasts=(
        Contrast("focal_alpha", within="images per step"),
        Contrast("focal_alpha", within="sampling"),
        Contrast("sampling", within="images per step"),
        Contrast("images per step", within="sampling"),
    ),
)

# Four epochs cannot show a late collapse, as one was reported: the first recipe's step size for four times as long.
LATE = Suite(
    name="late",
    title="focal_alpha over sixteen epochs",
    cells=[
        Cell(f"alpha{level[1:]}", {"focal_alpha": level}, {**images_per_step(2, 2), "focal_alpha": float(level)})
        for level in (".25", ".75")
    ],
    references={"focal_alpha": ".25"},
    options={**SHORT, "epochs": 16, "lr_drop": [12], "eval_every": 16},
    phantom=Phantom(train=TRAIN, val=600, size=256),
    seeds=2,
    metrics=METRICS,
    document="focal_alpha.md",
    tables=("setup", "cells", "skill"),
    plots=("skill",),
)

# The parts of DINO_4scale_tbx11k_strong.py that a small network can show: all but bfloat16 and the unfrozen stem.
PARTS: dict[str, tuple[str, Options]] = {
    "steps of 16, lr x 2": ("step16", {**images_per_step(16, 16), "lr": 2e-3, "lr_backbone": 2e-3}),
    "positive_fraction .25": ("positives", {"positive_fraction": 0.25}),
    "slow groups": ("slowgroups", {"param_dict_type": "ddetr_in_mmdet", "lr_linear_proj_mult": 0.1}),
    "cls_loss_coef 2": ("classweight", {"cls_loss_coef": 2.0}),
    "no decay on vectors": ("nodecay", {"decay_norms_and_biases": False}),
    "flat_cosine": ("flatcosine", {"lr_schedule": "flat_cosine"}),
}
STRONG = {key: value for _, options in PARTS.values() for key, value in options.items()}
# Additions to it.
EXTRAS: dict[str, tuple[str, Options]] = {
    "positive_fraction .5": ("half", {"positive_fraction": 0.5}),
    "cls_loss varifocal": ("varifocal", {"cls_loss": "varifocal"}),
    "cls_loss mal": ("mal", {"cls_loss": "mal"}),
    "cls_loss ia_bce": ("iabce", {"cls_loss": "ia_bce"}),
    "cls_loss position_supervised": ("positionsupervised", {"cls_loss": "position_supervised"}),
    "num_boxes_norm ema": ("emanorm", {"num_boxes_norm": "ema"}),
    "image head": ("imagehead", {"image_head": True, "image_loss_coef": 0.5}),
    "image head, gate 1": ("gate", {"image_head": True, "image_loss_coef": 0.5, "image_gate": 1.0}),
}


def variants(recipe: str, options: Options, switches: dict[str, tuple[str, Options]]) -> list[Cell]:
    """A recipe alone, and with each switch alone."""
    named = {"none": ("alone", {}), **switches}
    return [
        Cell(f"{recipe}-{name}", {"switch": level, "recipe": recipe}, {**options, **changes})
        for level, (name, changes) in named.items()
    ]


RECIPE = Suite(
    name="recipe",
    title="the recommended recipe, and each switch alone",
    cells=[*variants("seed", images_per_step(2, 2), PARTS), *variants("strong", STRONG, EXTRAS)],
    references={"switch": "none", "recipe": "seed"},
    options=SHORT,
    phantom=Phantom(train=TRAIN, val=600, size=256),
    seeds=3,
    metrics=METRICS,
    document="recipes.md",
    contrasts=(Contrast("switch", within="recipe"),),
    tables=("setup", "cells"),
    plots=("effects",),
)

# The best recipes of RECIPE, confirmed with more seeds on data that no choice was based on.
CONFIRM = Suite(
    name="confirm",
    title="the recommended recipe against the first one, on new data",
    cells=[
        Cell("seed", {"recipe": "seed"}, images_per_step(2, 2)),
        Cell(
            "seed-positives",
            {"recipe": "seed, positive_fraction .25"},
            {**images_per_step(2, 2), **PARTS["positive_fraction .25"][1]},
        ),
        Cell("strong", {"recipe": "strong"}, STRONG),
        Cell("strong-iabce", {"recipe": "strong, cls_loss ia_bce"}, {**STRONG, **EXTRAS["cls_loss ia_bce"][1]}),
    ],
    references={"recipe": "strong"},
    options=SHORT,
    phantom=Phantom(train=TRAIN, val=600, size=256, seed=1),
    seeds=8,
    metrics=METRICS,
    document="recipes.md",
    tables=("setup", "effects", "cells"),
    plots=("effects",),
)

SMOKE = Suite(
    name="smoke",
    title="Does the machinery work? Two cells, seconds each",
    cells=grid({"focal_alpha": {k: (f"alpha{k[1:]}", {"focal_alpha": float(k)}) for k in (".25", ".75")}}),
    references={"focal_alpha": ".25"},
    options={
        **SHORT,
        **images_per_step(4, 2),
        "hidden_dim": 32,
        "nheads": 2,
        "dim_feedforward": 32,
        "data_aug_scales": [96],
        "data_eval_scale": 96,
        "epochs": 2,
        "lr_drop": [1],
        "warmup_steps": 0,
        "eval_every": 2,
        "log_every": 1,
    },
    phantom=Phantom(train=24, val=24, size=96),
    seeds=2,
    metrics=METRICS,
    document="smoke.md",
    home="logs/study/smoke",
)

SUITES = {suite.name: suite for suite in (ALPHA, LATE, RECIPE, CONFIRM, SMOKE)}


def find_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        UserError: there is none.
    """
    if name not in SUITES:
        raise UserError(f"--suite {name}: there is no such suite; those there are: {', '.join(SUITES)}")
    return SUITES[name]
