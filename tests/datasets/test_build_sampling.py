"""From the knobs of sampling and augmentation to batches."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from datasets.annotations.split import load_split
from datasets.augment.transforms import crop_to, draw_crop, flip_horizontally, resize, to_tensors
from datasets.build import build_split, build_train_loader
from datasets.dataset import load_image, load_target
from datasets.phantom import make_phantom
from util.base.seed import derive_rng, derive_seed
from util.config import load_config
from util.config.load import read_values
from util.detection.batch import SampleKey, windows

CONFIG = Path(__file__).parents[2] / "config"
OFF = {knob: value for knob, value in read_values(CONFIG / "_base_" / "data.py").items() if not value}
SIZES = [
    "num_workers=0",
    "data_aug_crop=0.5",
    "data_aug_scales=[32,48]",
    "data_aug_max_size=64",
    "data_aug_scales2_resize=[40]",
    "data_aug_scales2_crop=[24,32]",
    "data_eval_scale=32",
]
SQUARE = load_config(CONFIG / "DINO" / "DINO_tiny_phantom.py", SIZES).data
DATA = replace(SQUARE, data_aug_square=False)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """22 images of 128 x 128, half of them with boxes: five windows of four and one of two."""
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=22, val=2, seed=0, positive_fraction=0.5, size=128)
    return build_split(SQUARE, folder, "train", num_classes=4)


EVERYTHING = {
    "positive_fraction": 0.75,
    "data_aug_rotate": 8.0,
    "data_aug_zoom": 0.1,
    "data_aug_brightness": 0.2,
    "data_aug_contrast": 0.2,
    "data_aug_gamma": 0.3,
    "data_aug_clahe": 0.5,
    "data_aug_noise": 5.0,
    "data_aug_erase": 0.5,
    "data_aug_mosaic": 0.3,
    "data_aug_copy_paste": 0.5,
    "data_aug_mix_end_epoch": 2,
}


def test_with_all_augmentation_and_repeated_images_the_cut_and_the_workers_still_change_nothing(phantom):
    data = replace(SQUARE, **EVERYTHING)
    seen_by_cut = []
    for (batch_size, accumulation, ranks), num_workers in ((4, 1, 1), 0), ((1, 2, 2), 1), ((2, 1, 2), 0):
        cut = {"batch_size": batch_size, "accumulation": accumulation, "world_size": ranks, "seed": 3}
        parts = []
        for rank in range(ranks):
            loader, sampler = build_train_loader(phantom, replace(data, num_workers=num_workers), rank=rank, **cut)
            sampler.set_epoch(1)
            parts.append([w.batches for w in windows(loader, accumulation)])
        seen_by_cut.append([sorted(looks(chain(*together))) for together in zip(*parts, strict=True)])
    assert seen_by_cut[0] == seen_by_cut[1] == seen_by_cut[2]
    assert all(len(set(window)) == len(window) for window in seen_by_cut[0]), "an image that comes again looks new"


def test_an_image_that_comes_again_gets_other_augmentation_and_other_noise(phantom):
    data = replace(SQUARE, positive_fraction=1.0)
    loader, _ = build_train_loader(phantom, data, batch_size=4, accumulation=1, seed=3)
    noise = [(int(t["image_id"]), int(t["noise_seed"])) for batch in loader for t in batch.targets]
    assert len({image for image, _ in noise}) < len(noise)
    assert len(set(noise)) == len(noise)
    first, again = (loader.dataset[SampleKey(0, 0, 0, repeat=repeat)].image for repeat in (0, 1))
    assert not torch.equal(first, again)


def looks(batches):
    """Every image of the batches with all that belongs to it, ghosts aside."""
    for batch in batches:
        for image, target in zip(batch.images, batch.targets, strict=True):
            if not batch.is_ghost:
                told = [target[k].numpy().tobytes() for k in sorted(target)]
                yield int(target["image_id"]), image.numpy().tobytes(), *told


def test_the_share_counts_images_of_which_training_sees_a_box(coco, write):
    """Only a.png has one: that of b.png (30 x 50) lies outside, that of c.png is a crowd."""
    coco["annotations"][0] = {"id": 9, "image_id": 3, "category_id": 1, "bbox": [40, 5, 8, 8]}
    split = load_split(*write(coco))
    _, sampler = build_train_loader(split, replace(DATA, positive_fraction=0.5), batch_size=2, accumulation=1, seed=5)
    assert "each of the 1 images with boxes 2 times; of the 2 without 1 once" in sampler.description


def test_rare_categories_are_named_with_their_factors(coco, write):
    """Of 3 images one has each category: sqrt(0.75 * 3) = 1.5, and 2 * 1.5 + 1 = 4."""
    split = load_split(*write(coco))
    data = replace(DATA, repeat_threshold=0.75)
    _, sampler = build_train_loader(split, data, batch_size=2, accumulation=1, seed=5)
    assert sampler.description == (
        "4 images in 2 steps of 2; every image once, those of rare categories more often "
        "(repeat_threshold 0.75: on average active 1.50 times, latent 1.50 times)"
    )


def test_without_knobs_an_image_is_what_it_was_before_there_were_any(coco, write):
    """Flip, then one resize or resize, crop, resize, in this order of draws."""
    split = load_split(*write(coco))
    loader, sampler = build_train_loader(split, DATA, batch_size=1, accumulation=1, seed=5)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        check_epoch(split, sampler, loader, epoch)


def check_epoch(split, sampler, loader, epoch):
    for (key,), batch in zip(sampler, loader, strict=True):
        image_id = int(split.image_ids[key.position])
        rng = derive_rng(5, "augment", epoch, image_id)
        image, target = load_image(split, key.position), load_target(split, key.position)
        if rng.random() < 0.5:
            image, target = flip_horizontally(image, target)
        if rng.random() < 0.5:
            image, target = resize(image, target, (40,)[rng.integers(1)])
            image, target = crop_to(image, target, *draw_crop(image.width, image.height, (24, 32), rng))
        image, target = resize(image, target, (32, 48)[rng.integers(2)], 64)
        pixels, target = to_tensors(image, target)
        assert torch.equal(batch.images[0], pixels)
        assert torch.equal(batch.targets[0]["boxes"], target["boxes"])
        assert batch.targets[0]["noise_seed"] == derive_seed(5, "denoising", epoch, image_id)


STRONG = {"DINO_4scale_tbx11k_strong", "DINO_4scale_tbx11k_swin", "DINO_4scale_tbx11k_convnext", "DINO_5scale_tbx11k"}


@pytest.mark.parametrize("path", sorted((CONFIG / "DINO").glob("*.py")), ids=lambda path: path.stem)
def test_only_the_strong_recipes_turn_one_of_the_knobs_on(path):
    changed = {knob: value for knob, value in read_values(path).items() if knob in OFF and value != OFF[knob]}
    assert changed == ({"positive_fraction": 0.25} if path.stem in STRONG else {})
