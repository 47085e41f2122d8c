import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.annotations.layout import TBX11K
from datasets.annotations.split import load_split
from datasets.build import build_eval_loader, build_split, build_splits, build_train_loader, describe, excess_boxes
from datasets.checks.folder import check_folder
from datasets.phantom import make_phantom
from util.base.errors import DataError
from util.config.load import read_values
from util.config.schema import DataConfig
from util.detection.batch import windows

BASE = read_values(Path(__file__).parents[2] / "config" / "_base_" / "data.py")
DATA = DataConfig(
    dataset_file="coco",
    train_list="mini",
    val_list="mini",
    data_aug_scales=(32, 48),
    data_aug_max_size=64,
    data_aug_square=False,
    data_aug_scales2_resize=(40,),
    data_aug_scales2_crop=(24, 32),
    data_eval_scale=32,
    **{**BASE, "num_workers": 0},
)


SQUARE = replace(
    DATA, dataset_file="tbx11k", train_list="TBX11K_train", data_aug_scales=(32, 48, 64, 80), data_aug_square=True
)
# (batch_size, accumulation, ranks) of four images per step
CUTS = [(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)]


@pytest.fixture
def data_path(coco, write, tmp_path):
    """The COCO layout: mini/ and annotations/instances_mini.json, with 7 images."""
    coco["images"] += [{"id": 10 + i, "file_name": f"d{i}.png", "width": 33, "height": 36} for i in range(4)]
    images, file = write(coco)
    images.rename(tmp_path / "mini")
    (tmp_path / "annotations").mkdir()
    file.rename(tmp_path / "annotations" / "instances_mini.json")
    return tmp_path


@pytest.fixture
def split(data_path):
    return build_split(DATA, data_path, "train", num_classes=3)


def seen(loader):
    return [
        (t["image_id"].item(), t["noise_seed"].item(), image.sum().item(), batch.is_ghost)
        for batch in loader
        for image, t in zip(batch.images, batch.targets, strict=True)
    ]


def train(split, num_workers=0, epoch=0, **cut):
    cut = {"batch_size": 2, "accumulation": 1, "seed": 5} | cut
    loader, sampler = build_train_loader(split, replace(DATA, num_workers=num_workers), **cut)
    sampler.set_epoch(epoch)
    return loader


def test_train_and_validation_lists_are_told_apart(data_path):
    data = replace(DATA, val_list="other")
    assert build_split(data, data_path, "train", num_classes=3).name == "instances_mini"
    with pytest.raises(DataError, match="no split 'other'"):
        build_split(data, data_path, "val", num_classes=3)


def test_a_split_is_checked_before_it_is_handed_out(data_path):
    with pytest.raises(DataError, match="num_classes=3"):
        build_split(DATA, data_path, "train", num_classes=2)


def test_the_images_are_opened_unless_that_is_not_wanted(data_path):
    (data_path / "mini" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 7 images cannot be read: a\.png \(empty\)"):
        build_split(DATA, data_path, "train", num_classes=3)
    assert build_split(DATA, data_path, "train", num_classes=3, opens_images=False).num_images == 7


def test_an_empty_validation_list_is_refused(data_path):
    empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "active"}]}
    (data_path / "annotations" / "instances_mini.json").write_text(json.dumps(empty))
    with pytest.raises(DataError, match=r"instances_mini\.json: 'images' is empty"):
        build_split(DATA, data_path, "val", num_classes=3)


@pytest.fixture
def tb_folder(coco, tmp_path, write):
    """The layout of TBX11K, two lists of the same content: tb/b.png has no box."""
    for record, name in zip(coco["images"], ("tb/a.png", "tb/b.png", "tb/c.png"), strict=True):
        record["file_name"] = name
    (tmp_path / "annotations/json").mkdir(parents=True)
    for name in ("TBX11K_train", "TBX11K_val"):
        images, file = write(coco, name)
        file.rename(tmp_path / "annotations/json" / file.name)
    images.rename(tmp_path / "imgs")
    return tmp_path


def test_images_with_tuberculosis_and_no_box_are_left_out_of_training_alone_and_told(tb_folder):
    data = replace(SQUARE, val_list="TBX11K_val")
    checked = build_splits(data, tb_folder, num_classes=3)
    assert checked.splits["train"].file_names.tolist() == ["tb/a.png", "tb/c.png"]
    assert checked.splits["train"].num_boxes == 2
    assert checked.splits["train"].boxes_of(1) == slice(1, 3)
    assert checked.splits["val"].num_images == 3
    own = [line for line in checked.warnings if " images in tb/ have no box: tb/b.png; " in line]
    assert [line.split(":")[0] for line in own] == ["TBX11K_train", "TBX11K_val"]
    assert "left out of training, exclude_unlabelled_tb=False keeps them" in own[0]
    assert "used as background" in own[1]
    assert any("2 of 3 validation images are training images too" in line for line in checked.warnings)
    kept = build_splits(replace(data, exclude_unlabelled_tb=False), tb_folder, num_classes=3)
    assert kept.splits["train"].num_images == 3
    assert build_split(data, tb_folder, "train", num_classes=3).num_images == 2


def test_who_shares_the_splits_sees_the_same_images_without_opening_one(tb_folder):
    data = replace(SQUARE, val_list="TBX11K_val")
    (tb_folder / "imgs/tb/c.png").write_bytes(b"")
    blind = build_splits(data, tb_folder, num_classes=3, opens_images=False)
    assert blind.splits["train"].file_names.tolist() == ["tb/a.png", "tb/c.png"]
    assert blind.files == {}
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read: tb/c\.png \(empty\)"):
        build_splits(data, tb_folder, num_classes=3)


def test_an_epoch_shows_every_image_once_and_the_next_another_way(split):
    loader, sampler = build_train_loader(split, DATA, batch_size=2, accumulation=2, seed=5)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(seen(loader))
        assert sorted(image_id for image_id, *_ in epochs[-1]) == [3, 5, 7, 10, 11, 12, 13]
    assert epochs[0] != epochs[1]
    assert epochs[0] == seen(train(split, accumulation=2))


def test_the_number_of_workers_changes_nothing(split):
    batches = [list(train(split, num_workers, epoch=1)) for num_workers in (0, 1, 2)]
    for others in batches[1:]:
        for one, other in zip(batches[0], others, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.mask, other.mask)
            for mine, its in zip(one.targets, other.targets, strict=True):
                assert mine.keys() == its.keys()
                assert all(torch.equal(mine[key], its[key]) for key in mine)


def test_the_number_of_ranks_changes_no_window(split):
    alone = list(windows(train(split, batch_size=1, accumulation=4), 4))
    ranks = [windows(train(split, batch_size=1, accumulation=2, rank=r, world_size=2), 2) for r in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        together = [key for part in parts for key in seen(part.batches) if not key[-1]]
        assert sorted(together) == sorted(seen(whole.batches))
        assert whole.num_boxes == sum(part.num_boxes for part in parts)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """22 images of 128 x 128: five windows of four and one of two."""
    folder = tmp_path_factory.mktemp("phantom") / "TBX11K"
    make_phantom(folder, train=22, val=2, seed=0, positive_fraction=0.5, size=128)
    return build_split(SQUARE, folder, "train", num_classes=4)


def square_windows(split, batch_size, accumulation, ranks, num_workers=0):
    """Per window the batches of all ranks."""
    parts = []
    for rank in range(ranks):
        cut = {"batch_size": batch_size, "accumulation": accumulation, "rank": rank, "world_size": ranks}
        loader, sampler = build_train_loader(split, replace(SQUARE, num_workers=num_workers), seed=3, **cut)
        sampler.set_epoch(1)
        parts.append([window.batches for window in windows(loader, accumulation)])
    return [[batch for part in together for batch in part] for together in zip(*parts, strict=True)]


def samples_of(batches):
    """Image id -> (image, target), ghosts aside."""
    shown = [b for b in batches if not b.is_ghost]
    return {int(t["image_id"]): (image, t) for b in shown for image, t in zip(b.images, b.targets, strict=True)}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cut", CUTS)
def test_a_window_is_one_square_without_padding_and_the_same_images_however_it_is_cut(phantom, cut, num_workers):
    expected = [samples_of(batches) for batches in square_windows(phantom, *CUTS[0])]
    assert [len(samples) for samples in expected] == [4, 4, 4, 4, 4, 2]
    sides = []
    for batches, wanted in zip(square_windows(phantom, *cut, num_workers), expected, strict=True):
        ((height, width),) = {tuple(b.images.shape[-2:]) for b in batches}
        assert height == width
        assert not any(b.mask.any() for b in batches)
        sides.append(height)
        samples = samples_of(batches)
        assert samples.keys() == wanted.keys()
        for image_id, (image, target) in samples.items():
            assert torch.equal(image, wanted[image_id][0])
            assert all(torch.equal(target[key], wanted[image_id][1][key]) for key in target)
    assert set(sides) <= set(SQUARE.data_aug_scales)
    assert len(set(sides)) > 1


def test_sides_stay_in_proportion_unless_squares_are_wanted(split):
    """d0.png to d3.png have 33 x 36 pixels."""
    for square in (False, True):
        data = replace(DATA, data_aug_square=square, data_aug_crop=0.0)
        loader, _ = build_train_loader(split, data, batch_size=2, accumulation=1, seed=5)
        sizes = [t["size"].tolist() for batch in loader for t in batch.targets if t["image_id"] >= 10]
        assert len(sizes) == 4
        assert all((height == width) == square for height, width in sizes)


def test_a_resumed_epoch_goes_on_with_the_same_squares(phantom):
    whole, sampler = build_train_loader(phantom, SQUARE, batch_size=4, accumulation=1, seed=3)
    batches = list(whole)
    sampler.set_epoch(0, start_window=2)
    for batch, wanted in zip(whole, batches[2:], strict=True):
        assert torch.equal(batch.images, wanted.images)


def test_a_rank_without_images_gets_a_ghost_that_counts_nothing(split):
    *_, last = train(split, batch_size=4, rank=1, world_size=4)
    assert not last.is_ghost
    ghost = list(train(split, batch_size=4, rank=3, world_size=4))[-1]
    assert ghost.is_ghost
    assert (ghost.num_boxes, ghost.num_images, len(ghost.images)) == (0, 0, 1)


def test_evaluation_shows_every_image_once_over_ranks_and_always_alike(split):
    for num_workers in (0, 1):
        data = replace(DATA, num_workers=num_workers)
        ids, sums = [], []
        for rank in range(3):
            for batch in build_eval_loader(split, data, batch_size=2, rank=rank, world_size=3):
                ids += [t["image_id"].item() for t in batch.targets]
                sums.append(batch.images.sum().item())
                assert all("noise_seed" not in t for t in batch.targets)
        assert sorted(ids) == [3, 5, 7, 10, 11, 12, 13]
        if num_workers == 0:
            expected = sums
        assert sums == expected


def test_a_rank_without_images_evaluates_nothing(split):
    assert list(build_eval_loader(split, DATA, batch_size=2, rank=7, world_size=8)) == []


def test_a_loader_leaves_the_global_generator_alone(split):
    before = torch.get_rng_state()
    list(train(split))
    list(build_eval_loader(split, DATA, batch_size=2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_split_is_described_in_one_line(split):
    assert describe(split) == "instances_mini: 7 images, 2 with boxes (28.6 %), 2 boxes: 1 active, 1 latent"


def test_a_category_that_is_called_as_a_line_of_the_log_makes_none(coco, write):
    coco["categories"][0]["name"] = "x\ndoctor: healthy\x1b[31m"
    assert r" x\ndoctor: healthy\x1b[31m" in describe(load_split(*write(coco)))


def test_images_with_more_boxes_than_queries_are_counted(coco, write):
    coco["annotations"] += [{"id": 9, "image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    split = load_split(*write(coco))
    assert excess_boxes(split, 2) is None  # the crowd region of c.png does not count
    line = "split: 1 of 3 images have more boxes than num_queries = 1, up to 2 (a.png); not all of them can be matched"
    assert excess_boxes(split, 1) == line


def test_a_split_without_boxes_is_not_crowded(coco, write):
    coco["annotations"] = []
    assert excess_boxes(load_split(*write(coco)), 1) is None


@pytest.mark.data
def test_the_real_split_is_described_with_the_known_counts(tbx11k):
    assert describe(load_split(*TBX11K.find_split(tbx11k, "TBX11K_train"))) == (
        "TBX11K_train: 6600 images, 599 with boxes (9.1 %), 902 boxes: "
        "724 ActiveTuberculosis, 178 ObsoletePulmonaryTuberculosis, 0 PulmonaryTuberculosis"
    )


def test_what_was_read_with_a_note_is_a_warning_of_the_training_and_of_the_check(data_path):
    file = data_path / "annotations/instances_mini.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row["image_id"] = float(row["image_id"])
    file.write_text(json.dumps(content))
    expected = f"{len(content['annotations'])} whole numbers have a decimal point: read as whole numbers; first "
    warnings = build_splits(DATA, data_path, num_classes="auto").warnings
    assert sum(line.startswith(f"instances_mini: {expected}") for line in warnings) == 2  # one list for both
    found = [finding for finding in check_folder(data_path).findings if finding.kind == "converted"]
    assert [(finding.severity, finding.text[:6]) for finding in found] == [("warning", "mini: ")]
    assert expected in found[0].text


def test_auto_gives_each_category_a_class_in_both_splits(data_path):
    splits = build_splits(DATA, data_path, num_classes="auto").splits
    ids = splits["train"].category_ids
    assert splits["train"].classes.indices(ids) == tuple(range(len(ids)))
    assert splits["val"].classes == splits["train"].classes
