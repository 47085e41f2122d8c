import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.device_waits import Waits
from util.detection.batch import Sample, collate
from util.detection.pixels import normalised

CPU, META = torch.device("cpu"), torch.device("meta")
SIZES = st.lists(st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


def target():
    return {
        "boxes": torch.rand(1, 4),
        "labels": torch.ones(1, dtype=torch.long),
        "image_id": torch.tensor(7),
        "noise_seed": torch.tensor(5),
        "size": torch.tensor([2, 2]),
    }


def pixels(channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def collated_as_floats(images):
    """Each image in three channels, normalised, then padded with zeros: how the network's input is defined."""
    mean, std = (torch.tensor(c)[:, None, None] for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    padded = torch.zeros(len(images), 3, max(i.shape[1] for i in images), max(i.shape[2] for i in images))
    for place, image in zip(padded, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = (image.expand(3, -1, -1).float() / 255 - mean) / std
    return padded


@given(SIZES)
def test_a_batch_equals_to_the_bit_what_single_images_normalised_and_padded_give(sizes):
    images = [pixels(*size, seed) for seed, size in enumerate(sizes)]
    batch = collate([Sample(image, target()) for image in images])
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape[1] == max(channels for channels, *_ in sizes)
    moved = batch.to(CPU)
    assert torch.equal(moved.images, collated_as_floats(images))
    assert moved.images.is_contiguous()
    assert torch.equal(moved.to(CPU).images, moved.images)  # what is normalised stays as it is
    assert torch.equal(moved.mask, batch.mask)


def test_all_levels_in_all_channels_by_hand():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    made = normalised(levels, torch.zeros(1, 16, 16, dtype=torch.bool))[0]
    expected = (torch.arange(256).view(16, 16).double() / 255 - 0.456) / 0.224
    assert torch.allclose(made[1].double(), expected, atol=1e-6)
    assert made[:, 15, 15].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def test_grey_equals_three_equal_channels():
    grey, mask = pixels(1, 6, 5)[None], torch.rand(1, 6, 5) < 0.3
    assert torch.equal(normalised(grey, mask), normalised(grey.expand(-1, 3, -1, -1), mask))
    assert (normalised(grey, mask).permute(0, 2, 3, 1)[mask] == 0).all()


def test_an_evaluation_before_the_first_step_leaves_training_possible():
    weight = torch.ones(3, 1, 1, requires_grad=True)
    image, mask = pixels(1, 4, 4)[None], torch.zeros(1, 4, 4, dtype=torch.bool)
    with torch.inference_mode():
        normalised(image, mask)
    (normalised(image, mask) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_ghost", [False, True])
def test_nobody_waits_for_the_device_when_a_batch_moves(channels, is_ghost):
    batch = collate([Sample(pixels(channels, 4, 6), target(), is_ghost), Sample(pixels(1, 5, 5), target(), is_ghost)])
    with Waits() as waits:
        moved = batch.to(META)
        assert [int(t["image_id"]) for t in moved.targets] == [7, 7]
    assert not waits.seen
    assert (moved.images.shape, moved.images.dtype, moved.images.device) == ((2, 3, 5, 6), torch.float32, META)
    assert moved.is_ghost is is_ghost


def test_what_only_the_host_asks_for_stays_on_the_host():
    moved = collate([Sample(pixels(1, 4, 4), target())]).to(META).targets[0]
    on_host = {key for key, value in moved.items() if value.device == CPU}
    assert on_host == {"image_id", "noise_seed"}
