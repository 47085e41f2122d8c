"""Training from the cache is training from the files, only faster."""

from dataclasses import replace

import pytest
import torch

from datasets.build import build_eval_loader, build_split, build_train_loader
from datasets.cache.file import cache_file, open_cache
from datasets.phantom.write import make_phantom
from tests.helpers.cache import assert_holds
from tests.helpers.training import ROOT, assert_same_state, call, call_apart, figures, load, training
from tests.helpers.training import options as small_options
from util.config.load import load_config

pytest_plugins = ["tests.helpers.cache_fixtures"]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=12, val=6, seed=0, positive_fraction=0.5, size=128)
    return folder


def tiny(*options):
    return load_config(ROOT / "config/DINO/DINO_tiny_phantom.py", [*small_options(), *options])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_the_cache_equal_those_from_the_files(phantom, folder, num_workers):
    config = tiny(f"num_workers={num_workers}", f"image_cache={str(folder)!r}")
    cached, plain = config.data, replace(config.data, image_cache="")
    for which in ("train", "val"):
        split = build_split(cached, phantom, which, num_classes=4)
        assert cache_file(split, folder).exists()
        if which == "train":
            loaders = [build_train_loader(split, d, batch_size=2, accumulation=2, seed=5) for d in (plain, cached)]
            for _, sampler in loaders:
                sampler.set_epoch(3)
            ours, theirs = (loader for loader, _ in loaders)
        else:
            ours, theirs = (build_eval_loader(split, d, batch_size=2) for d in (plain, cached))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.mask, other.mask)
            assert all(torch.equal(a[k], b[k]) for a, b in zip(one.targets, other.targets, strict=True) for k in a)


def test_who_looks_at_a_few_images_builds_no_cache(phantom, folder):
    config = tiny(f"image_cache={str(folder)!r}")
    build_split(config.data, phantom, "val", num_classes=4, opens_images=False)
    assert not folder.exists()


@pytest.mark.slow
def test_a_training_from_the_cache_is_the_training_from_the_files(phantom, tmp_path):
    runs = {"files": {}, "cache": {"image_cache": str(tmp_path / "cache"), "num_workers": 2}}
    for name, changes in runs.items():
        outcome = call(*training(phantom, tmp_path / name, **changes))
        assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "cache").glob("*.images"))) == 2
    files, cached = (load(tmp_path / name / "checkpoint.pth") for name in runs)
    assert figures(tmp_path / "files") == figures(tmp_path / "cache")
    differing = {k for k in files["config"] if files["config"][k] != cached["config"][k]}
    assert differing == {"image_cache", "num_workers"}
    assert_same_state({**files, "config": None}, {**cached, "config": None})


@pytest.mark.slow
def test_the_script_builds_what_training_finds(phantom, folder):
    command = ["scripts/build_cache.py", "-c", "config/DINO/DINO_tiny_phantom.py", "--data_path", phantom]
    first = call_apart(*command, "--cache", folder)
    assert first.code == 0, first.err
    assert "TBX11K_train.images: 12 images, " in first.out
    split = build_split(tiny().data, phantom, "train", num_classes=4)
    assert_holds(open_cache(split, folder), split)
    refused = call_apart(*command, "--cache", folder / "TBX11K_train.images")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "cannot be written" in refused.err


@pytest.mark.slow
def test_loading_from_the_cache_is_ten_times_as_fast_as_from_the_files(tmp_path, folder):
    make_phantom(tmp_path / "TBX11K", train=20, val=1, seed=0, size=512)
    command = [
        "scripts/measure/time_loading.py",
        "-c",
        "config/DINO/DINO_tiny_phantom.py",
        "--data_path",
        tmp_path / "TBX11K",
    ]
    outcome = call_apart(*command, "--cache", folder, "--repeats", 5)
    assert outcome.code == 0, outcome.err
    [image] = [line.split() for line in outcome.out.splitlines() if line.startswith("image")]
    assert float(image[-1].removesuffix("x")) >= 10, outcome.out
