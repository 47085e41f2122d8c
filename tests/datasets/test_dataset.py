import copy
import gc
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets.annotations import tbx11k as tbx
from datasets.annotations.layout import TBX11K
from datasets.annotations.split import load_split
from datasets.augment.transforms import EvalTransform, TrainTransform
from datasets.dataset import CocoDataset, load_target
from util.base.errors import DataError
from util.base.seed import derive_seed
from util.detection.batch import SampleKey, collate

GOLDEN = Path(__file__).parents[1] / "golden"
SCALES = (32, 48, 64)
SMALL = partial(
    TrainTransform, flip=0.5, crop=0.5, scales=SCALES, max_size=96, resize_before_crop=(40, 50), crop_range=(24, 40)
)
TRAIN = SMALL(square=False)
SQUARE = SMALL(square=True)


def rewrite(content, file):
    file.write_text(json.dumps(content))
    return file


def dataset(folder, *, is_train=False, seed=0):
    return CocoDataset(load_split(*folder), TRAIN if is_train else EvalTransform(32, 64), seed=seed, is_train=is_train)


def squares(folder, seed=0):
    return CocoDataset(load_split(*folder), SQUARE, seed=seed, is_train=True)


def test_a_split_counts_what_the_file_says(coco, write):
    split = load_split(*write(coco))
    assert (split.name, split.num_images, split.num_boxes) == ("split", 3, 2)
    assert split.category_ids == (1, 2)
    assert split.names == {1: "active", 2: "latent"}


def test_the_ground_truth_lists_every_image_and_box_as_stated(coco, write):
    truth = load_split(*write(coco)).ground_truth()
    assert truth.images == (7, 3, 5)
    assert truth.image_id.tolist() == [7, 5, 5]
    assert truth.label.tolist() == [1, 2, 1]
    assert truth.xyxy.tolist() == [[4.5, 6, 24.5, 36], [1, 2, 11, 22], [0, 0, 32, 32]]
    assert truth.area.tolist() == [600, 150, 9.5]  # the first has no "area": 20 x 30
    assert truth.is_crowd.tolist() == [False, False, True]
    assert truth.sizes == {7: (40, 48), 3: (50, 30), 5: (32, 32)}
    assert truth.files[3] == "sub/b.png"


def test_a_split_without_any_box_works_throughout(coco, write):
    coco["annotations"] = []
    data = dataset(write(coco), is_train=True)
    assert len(data.split.ground_truth()) == 0
    assert data.split.num_boxes == 0
    batch = collate([data[i] for i in range(3)])
    assert batch.num_boxes == 0
    assert [tuple(t["boxes"].shape) for t in batch.targets] == [(0, 4)] * 3


def test_the_conversion_of_boxes_equals_the_official_one(coco, write):
    """Clipped, and dropped where nothing is left; a crowd region and a box outside the image are added here."""
    coco["images"] = [{"id": 42, "file_name": "a.png", "width": 100, "height": 80}]
    boxes = [[10, 10, 20, 30], [-5, -5, 20, 20], [5, 5, 9, 9], [120, 10, 5, 5], [90, 70, 50, 50]]
    coco["annotations"] = [
        {"id": i, "image_id": 42, "category_id": c, "bbox": box, "iscrowd": int(i == 2)}
        for i, (c, box) in enumerate(zip([1, 2, 1, 1, 3], boxes, strict=True))
    ]
    coco["categories"].append({"id": 3, "name": "uncertain"})
    target = load_target(load_split(*write(coco)), 0)
    with np.load(GOLDEN / "data_transforms.npz") as golden:
        assert np.array_equal(target["boxes"].numpy(), golden["convert/boxes"])
        assert np.array_equal(target["labels"].numpy(), golden["convert/labels"])
        assert np.array_equal(target["orig_size"].numpy(), golden["convert/size"])


def test_a_sample_holds_the_image_and_its_normalised_boxes(coco, write):
    sample = dataset(write(coco))[0]
    assert sample.image.shape == (3, 32, 38)  # 48 x 40 to a shorter side of 32
    assert torch.allclose(sample.target["boxes"], torch.tensor([[14.5 / 48, 21 / 40, 20 / 48, 30 / 40]]))
    assert sample.target["labels"].tolist() == [1]
    assert sample.target["image_id"].item() == 7
    assert sample.target["orig_size"].tolist() == [40, 48]
    assert sample.target["size"].tolist() == [32, 38]
    assert sample.target.keys() == {"boxes", "labels", "image_id", "orig_size", "size"}
    assert sample.target["boxes"].dtype == torch.float32
    assert all(sample.target[key].dtype == torch.int64 for key in ("labels", "image_id", "orig_size", "size"))


def test_noise_and_augmentation_follow_from_seed_epoch_and_image(coco, write):
    folder = write(coco)
    data = dataset(folder, is_train=True, seed=11)
    first, again, later = (data[SampleKey(epoch, window=0, position=0)] for epoch in (2, 2, 3))
    assert first.target["noise_seed"].item() == derive_seed(11, "denoising", 2, 7)
    assert torch.equal(first.image, again.image)
    assert first.target["noise_seed"] != later.target["noise_seed"]
    others = [dataset(folder, is_train=True, seed=s)[SampleKey(e, 0, 0)].image for s in range(4) for e in range(4)]
    assert len({(image.shape, image.sum().item()) for image in others}) > 4


def test_an_image_becomes_the_same_wherever_it_stands_in_the_file(coco, write):
    one = dataset(write(coco), is_train=True)[SampleKey(epoch=1, window=0, position=2)]
    turned = copy.deepcopy(coco)
    turned["images"].reverse()
    folder, file = write(coco)
    turned = CocoDataset(load_split(folder, rewrite(turned, file)), TRAIN, seed=0, is_train=True)
    other = turned[SampleKey(epoch=1, window=0, position=0)]
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.target["boxes"], other.target["boxes"])


def test_ghosts_stay_ghosts(coco, write):
    data = dataset(write(coco), is_train=True)
    assert data[SampleKey(0, 0, 1, is_ghost=True)].is_ghost
    assert not data[SampleKey(0, 0, 1)].is_ghost


def test_every_image_of_a_window_is_the_same_square_whatever_its_shape(coco, write):
    """The images have three shapes; ghosts must fit in too."""
    data = squares(write(coco))
    for window in range(12):
        keys = [SampleKey(4, window, i, is_ghost) for i in range(3) for is_ghost in (False, True)]
        ((_, height, width),) = {tuple(data[key].image.shape) for key in keys}
        assert height == width
        assert height in SCALES


@pytest.mark.parametrize("seed", range(4))
def test_every_scale_comes_about_equally_often_and_in_another_order_in_another_epoch(coco, write, seed):
    """Of 150 windows a third each: 50, and 4.7 standard deviations (5.8) to either side."""
    data = squares(write(coco), seed)
    first, second = ([data[SampleKey(epoch, w, 2)].image.shape[1] for w in range(150)] for epoch in (0, 1))
    assert first != second
    for drawn in (first, second):
        assert all(23 <= drawn.count(scale) <= 77 for scale in SCALES)


@pytest.mark.parametrize("seed", range(8))
def test_an_image_in_another_window_differs_in_scale_alone(coco, write, seed):
    """Equal to the bit where the scale is the same; flip, crop, boxes and noise are the same at any scale."""
    data = squares(write(coco), seed)
    by_scale = {}
    for window in range(12):
        sample = data[SampleKey(0, window, 2)]
        by_scale.setdefault(sample.image.shape[1], []).append(sample)
    assert len(by_scale) > 1
    first = data[SampleKey(0, 0, 2)].target
    for scale, samples in by_scale.items():
        for sample in samples:
            assert torch.equal(sample.image, samples[0].image)
            assert sample.target["size"].tolist() == [scale, scale]
            assert torch.allclose(sample.target["boxes"], first["boxes"], atol=1e-6)
            assert all(torch.equal(sample.target[k], first[k]) for k in first.keys() - {"boxes", "size"})


def test_sides_in_proportion_do_not_depend_on_the_window(coco, write):
    data = dataset(write(coco), is_train=True)
    one, other = data[SampleKey(epoch=1, window=0, position=0)], data[SampleKey(epoch=1, window=7, position=0)]
    assert torch.equal(one.image, other.image)


def test_positions_outside_the_split_are_refused(coco, write):
    data = dataset(write(coco))
    for index in (-1, 3):
        with pytest.raises(IndexError, match="3 images"):
            data[index]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{ not json", "is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", "is an object with the lists images, annotations, categories; this one holds"),
        ('{"images": [], "annotations": []}', "has no 'categories'"),
        ('{"images": [], "categories": []}', r"add 'annotations': \[\]"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' must be a list"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\] must be an object"),
    ],
)
def test_a_file_that_is_not_coco_is_refused_with_its_name(write, content, message):
    with pytest.raises(DataError, match=message) as error:
        load_split(*write(content))
    assert "split.json" in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: no such annotation file"):
        load_split(tmp_path, tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        load_split(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("images", "id", "", r"images\[1\]: 'id' must be a whole number from 0 on, got '' \(str\)"),
        ("images", "id", -1, "whole number from 0 on"),
        ("images", "id", 2**63, "whole number from 0 on"),
        ("images", "width", 0, "'width' must be a whole number from 1 on"),
        ("images", "height", None, "'height' must be a whole number from 1 on"),
        ("images", "file_name", 5, "'file_name' must be a text"),
        ("images", "id", 7, "1 ids occur more than once in 'images', first 7"),
        ("categories", "id", 1, "1 ids occur more than once in 'categories', first 1"),
        ("annotations", "bbox", [1, 2, 3], r"annotations\[1\]: 'bbox' must be a list"),
        ("annotations", "bbox", [1, 2, 3, "four"], "'bbox' must be a list"),
        ("annotations", "area", "large", "'area' must be a number"),
        ("annotations", "iscrowd", 2, "'iscrowd' must be 0 or 1"),
        ("annotations", "image_id", 99, "1 of 3 annotations have a image_id that 'images' does not list, first 99"),
        ("annotations", "category_id", 0, "category_id that 'categories' does not list, first 0"),
    ],
)
def test_a_wrong_value_is_refused_and_named(coco, write, where, key, value, message):
    folder, file = write(coco)
    coco[where][1][key] = value
    with pytest.raises(DataError, match=message) as error:
        load_split(folder, rewrite(coco, file))
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("where", "key"), [("images", "id"), ("images", "width"), ("annotations", "bbox"), ("categories", "name")]
)
def test_a_missing_key_is_refused_and_named(coco, write, where, key):
    folder, file = write(coco)
    del coco[where][0][key]
    with pytest.raises(DataError, match=rf"{where}\[0\] has no '{key}'"):
        load_split(folder, rewrite(coco, file))


@pytest.mark.parametrize("where", ["images", "categories"])
def test_an_empty_list_is_refused(coco, write, where):
    folder, file = write(coco)
    coco[where] = []
    with pytest.raises(DataError, match=f"'{where}' is empty"):
        load_split(folder, rewrite(coco, file))


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_truncated_image_is_named_with_its_record_and_the_mend(coco, write):
    folder, file = write(coco)
    truncate(folder / "a.png")
    with pytest.raises(DataError) as error:
        dataset((folder, file))[0]
    assert str(error.value).startswith(f"{folder / 'a.png'}: cannot be read as an image")
    assert str(error.value).endswith(f"download the file again, or remove image id 7 of {file}")


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x05IHDR"])
def test_a_file_that_is_no_image_is_named(coco, write, content):
    folder, file = write(coco)
    (folder / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        dataset((folder, file))[0]


def test_an_image_of_another_size_than_recorded_is_refused(coco, write):
    folder, file = write(coco)
    Image.new("L", (40, 48)).save(folder / "a.png")
    with pytest.raises(DataError, match=r"a\.png: has 40 x 48 pixels .* image id 7 of .*split\.json states 48 x 40"):
        dataset((folder, file))[0]


def test_an_error_in_a_worker_reads_as_it_does_without_workers(coco, write, monkeypatch):
    # After an error torch waits this long for the worker, whenever the iterator happens to be collected.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    folder, file = write(coco)
    truncate(folder / "a.png")
    messages = []
    for num_workers in (0, 1):
        with pytest.raises(DataError) as error:
            list(DataLoader(dataset((folder, file)), num_workers=num_workers, collate_fn=collate))
        messages.append(str(error.value))
    del error
    gc.collect()
    assert messages[0] == messages[1]
    assert "Traceback" not in messages[1]


def test_an_error_of_several_lines_keeps_them():
    assert str(DataError("file: cannot be used\n  one\n  two")) == "file: cannot be used\n  one\n  two"


@pytest.mark.data
def test_the_real_splits_load_fast_with_the_published_counts(tbx11k):
    start = time.process_time()
    train = load_split(*TBX11K.find_split(tbx11k, "TBX11K_train"))
    seconds = time.process_time() - start
    val = load_split(*TBX11K.find_split(tbx11k, "TBX11K_val"))
    assert (train.num_images, train.num_boxes) == (6600, 902)
    assert (val.num_images, val.num_boxes) == (1800, 309)
    assert np.bincount(train.labels).tolist() == [0, 724, 178]
    assert train.names == val.names == tbx.CATEGORIES
    assert len(train.ground_truth().images) == 6600
    assert seconds < 2


@pytest.mark.data
def test_the_real_images_that_are_there_can_be_read(tbx11k):
    split = load_split(*TBX11K.find_split(tbx11k, "all_trainval"))
    there = [i for i, name in enumerate(split.file_names) if (split.image_dir / str(name)).is_file()]
    data = CocoDataset(split, EvalTransform(512, 800), seed=0, is_train=False)
    assert len(there) >= 20
    for index in there[:20]:
        assert data[index].image.shape == (1, 512, 512)
