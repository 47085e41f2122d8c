"""Every file in config/DINO trains: a step of the parts that main.py puts together, made small by options."""

from functools import partial
from itertools import islice, product

import pytest
import torch

import main
from datasets.build import build_train_loader
from engine import Learner, train_one_epoch
from tests.helpers.training import ROOT
from util.base.launcher import ProcessInfo
from util.config import load_config
from util.config.command_line import parse_arguments
from util.distributed.collectives import distribute
from util.runlog.training_log import build_training_log

pytest_plugins = ["tests.helpers.training_fixtures"]

CONFIGS = {path.stem: path for path in sorted((ROOT / "config/DINO").glob("*.py"))}
AT_ONCE = {"DINO_4scale_tbx11k_strong", "DINO_tiny_phantom"}  # the others only with the slow tests
CPU, ALONE = torch.device("cpu"), ProcessInfo(rank=0, world_size=1, local_rank=0)
SMALLER = {  # large backbones, and the smallest of their kind
    "swin_L_384_22k": "swin_T_224_1k",
    "swin_B_224_22k": "swin_T_224_1k",
    "convnext_xlarge_22k": "convnext_tiny_22k",
    "convnext_base_22k": "convnext_tiny_22k",
}
SIZES = {
    "backbone_weights": "none",  # nothing is downloaded
    "hidden_dim": 64,
    "dim_feedforward": 64,
    "enc_layers": 1,
    "dec_layers": 2,
    "num_queries": 20,
    "num_select": 20,
    "dn_number": 50,  # the least that is shared out over groups by the number of boxes, as all recipes have it
    "data_aug_scales": [96, 128],
    "data_aug_max_size": 128,
    "data_aug_scales2_resize": [96],
    "data_aug_scales2_crop": [64, 96],
    "data_eval_scale": 96,
    "batch_size": 2,
    "num_workers": 0,
}


def cases():
    return [pytest.param(name, marks=[] if name in AT_ONCE else [pytest.mark.slow]) for name in CONFIGS]


def options(config):
    """What makes a recipe small. Only sizes change: what is computed, and how it is trained, stays."""
    changes = {
        **SIZES,
        "backbone": SMALLER.get(config.model.backbone, config.model.backbone),
        "gradient_accumulation_steps": min(2, config.optim.gradient_accumulation_steps),
        "warmup_steps": min(1, config.optim.warmup_steps),  # a first step of full length, so that float32 shows it
    }
    return [f"{key}={value}".replace(" ", "") for key, value in changes.items()]


@pytest.fixture(scope="module")
def folders(phantom, tmp_path_factory):
    """The phantom by `dataset_file`, also laid out like COCO, with the names of lists of all recipes."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    for which, year in product(("train", "val"), ("", "2017")):
        (folder / f"{which}{year}").symlink_to(phantom / "imgs")
        text = (phantom / f"annotations/json/TBX11K_{which}.json").read_text()
        (folder / f"annotations/instances_{which}{year}.json").write_text(text)
    return {"tbx11k": phantom, "coco": folder}


def take_a_step(run):
    """The first optimizer step of a prepared training, as main.py takes it."""
    config = run.folder.config
    optim, split, state = config.optim, run.splits["train"], run.state
    cut = {"batch_size": optim.batch_size, "accumulation": optim.gradient_accumulation_steps}
    loader, sampler = build_train_loader(split, config.data, **cut, seed=config.runtime.seed)
    sampler.set_epoch(0)
    parts = (distribute(state.model, ALONE), run.criterion, state.optimizer, state.precision, CPU)
    learner = Learner(*parts, optim.clip_max_norm, state.denominator)
    log = build_training_log(run.folder.log, config, sampler.num_windows, CPU, ALONE, split.category_ids, False)
    log.start_epoch(0)
    taken = []

    def follow(step):
        taken.append(step)
        main.after_step(run, log, step)

    batches = islice(log.watch(loader), optim.gradient_accumulation_steps)
    before = partial(main.before_step, run, log)
    train_one_epoch(learner, batches, accum_steps=cut["accumulation"], before_step=before, after_step=follow)
    [step] = taken
    return step


@torch.no_grad()
def move_off_the_start(state):
    """Layers that start at 0 let no gradient through to those before them."""
    for name, parameter in state.model.named_parameters():
        if not name.startswith("backbone"):
            parameter += 0.05 * torch.randn(parameter.shape)
    state.average.copy_from(state.model)


def part_of(name):
    """backbone.0.layer1, transformer.encoder.layers, input_proj.0.1, class_embed.0, ..."""
    return ".".join(name.removesuffix(".weight").removesuffix(".bias").split(".")[:3])


def trainable(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", cases())
def test_a_recipe_takes_a_step_that_moves_every_part_and_its_average(name, folders, room):
    given = load_config(CONFIGS[name])
    arguments = ["-c", str(CONFIGS[name]), "--data_path", str(folders[given.data.dataset_file])]
    arguments += ["--output_dir", str(room / "run"), "--device", "cpu", "--options", *options(given)]
    run = main.prepare_training(parse_arguments(arguments), ALONE, CPU)
    move_off_the_start(run.state)
    before, average = trainable(run.state.model), run.state.average
    step = take_a_step(run)
    assert step.is_taken
    assert step.window.num_boxes > 0
    assert all(torch.isfinite(value) for value in step.total.values())
    after = trainable(run.state.model)
    moved = {part_of(name) for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved == {part_of(name) for name in before}
    assert average.is_copy == given.optim.use_ema
    followed = {name: p for name, p in average.module.named_parameters() if name in after}
    assert any(not torch.equal(p, before[name]) for name, p in followed.items())
    assert any(not torch.equal(p, after[name]) for name, p in followed.items()) == given.optim.use_ema
    rates = {group["label"]: group["lr"] for group in run.state.optimizer.param_groups}
    assert rates["rest"] == given.optim.lr
    assert rates["backbone"] == given.optim.lr_backbone
    assert ("slow" in rates) == (given.optim.param_dict_type == "ddetr_in_mmdet")
