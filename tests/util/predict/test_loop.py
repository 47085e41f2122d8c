"""An image on which something fails costs that image alone; a network that fails on all of them is an error."""

import subprocess
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from util.base.errors import MissingPackage, UserError
from util.detection.batch import Sample
from util.predict.detect_each import MEMORY_HINT
from util.predict.loop import detect_all
from util.predict.outputs import OutputSettings
from util.predict.results import ResultFile

NAMES = [f"{n}.png" for n in range(9)]
ERRORS = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    subprocess.CalledProcessError(1, "gs"),
    ValueError("Expected more than 1 value per channel"),
    KeyError("x"),
    AssertionError("x"),
    torch.OutOfMemoryError("CUDA out of memory"),
    FloatingPointError("x"),
]


@dataclass(frozen=True)
class Picture:
    """An image, or what its file raises; the pixel value is its number."""

    name: str
    error: BaseException | None = None
    stamp: tuple[int, int] = (1, 1)

    def read(self):
        if self.error:
            raise self.error
        return Image.new("L", (8, 8), int(self.name.split(".")[0]))


class Network:
    """Fails on some images, by their numbers, in one of its two steps."""

    def __init__(self, bad=(), error=None, step="detect"):
        self.bad, self.error, self.step, self.sizes = set(bad), error, step, []

    def prepare(self, image):
        self.check("prepare", image.getpixel((0, 0)))
        return (Sample(torch.full((1, 4, 4), image.getpixel((0, 0)), dtype=torch.uint8), {}),)

    def detect(self, images):
        self.sizes.append(len(images))
        for (sample,) in images:
            self.check("detect", int(sample.image[0, 0, 0]))
        box = torch.tensor([[1.0, 1.0, 2.0, 2.0]])
        return [{"scores": torch.tensor([0.9]), "labels": torch.tensor([1]), "boxes": box} for _ in images]

    def check(self, step, number):
        if step == self.step and number in self.bad:
            raise self.error


@pytest.fixture
def predict(tmp_path):
    """Predict, and give (names of the rows, failures)."""

    def call(network, pictures, batch_size=4, draw="none"):
        rows = ResultFile(tmp_path, {})
        failed = detect_all(
            network,
            pictures,
            rows,
            OutputSettings(tmp_path, draw, {1: "x"}, 0.5, "score"),
            device=torch.device("cpu"),
            batch_size=batch_size,
            num_threads=2,
            after_images=lambda _: None,
        )
        return [row.name for row in rows.read(NAMES)], dict(failed)

    return call


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["read", "prepare", "detect"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_one_image_on_which_something_fails_is_listed_and_the_rest_is_predicted(predict, step, error, batch_size):
    for bad in (0, 5):
        pictures = [Picture(name, error if step == "read" and n == bad else None) for n, name in enumerate(NAMES)]
        done, failed = predict(Network([bad], error, step), pictures, batch_size)
        assert list(failed) == [NAMES[bad]]
        assert failed[NAMES[bad]]
        assert set(NAMES) - set(failed) <= set(done)


def test_the_image_at_fault_is_searched_by_halves(predict):
    network = Network([2], RuntimeError("x"))
    assert predict(network, [Picture(name) for name in NAMES[:8]], 8)[1] == {"2.png": "x"}
    # eight, the first four, two, then two, the image at fault, the one that is tried instead, the other one, four
    assert network.sizes == [8, 4, 2, 2, 1, 1, 1, 4]


def test_an_image_too_large_for_the_gpu_is_listed_with_the_fix(predict):
    network = Network([2], torch.OutOfMemoryError("CUDA out of memory"))
    assert predict(network, [Picture(name) for name in NAMES])[1] == {"2.png": MEMORY_HINT}


@pytest.mark.parametrize("step", ["prepare", "detect"])
def test_what_fails_on_every_image_is_raised(predict, step):
    error = RuntimeError("the network is broken")
    with pytest.raises(RuntimeError, match="the network is broken"):
        predict(Network(range(9), error, step), [Picture(name) for name in NAMES])
    with pytest.raises(RuntimeError, match="the network is broken"):  # though other files cannot be read
        predict(Network(range(9), error, step), [Picture("0.png", OSError()), Picture("1.png"), Picture("2.png")])


def test_every_image_too_large_for_the_gpu_is_an_error_with_the_fix(predict):
    with pytest.raises(UserError, match="choose --device cpu"):
        predict(Network(range(9), torch.OutOfMemoryError("CUDA out of memory")), [Picture(name) for name in NAMES])


def test_an_image_that_fails_at_each_start_does_not_undo_what_was_done_before(predict):
    predict(Network(), [Picture(name) for name in NAMES[:5]])
    done, failed = predict(Network([5], RuntimeError("x")), [Picture("5.png")])
    assert (done, failed) == (NAMES[:5], {"5.png": "x"})


def test_a_network_that_works_no_more_is_an_error_and_what_was_done_is_kept(predict, tmp_path):
    class Breaking(Network):
        def detect(self, images):
            if len(self.sizes) >= 3:
                raise RuntimeError("the GPU is lost")
            return super().detect(images)

    with pytest.raises(RuntimeError, match="the GPU is lost"):
        predict(Breaking(), [Picture(name) for name in NAMES], 2)
    assert len(ResultFile(tmp_path, {})) >= 2


def test_files_that_cannot_be_read_are_no_error_of_the_network(predict):
    assert predict(Network(), [Picture(name, MemoryError()) for name in NAMES[:3]]) == (
        [],
        dict.fromkeys(NAMES[:3], "does not fit into memory"),
    )


def test_numbers_that_are_no_boxes_cost_their_image_alone(predict):
    class Wrong(Network):
        def detect(self, images):
            found = super().detect(images)
            for (sample,), one in zip(images, found, strict=True):
                if sample.image[0, 0, 0] == 3:
                    one["scores"][0] = float("nan")
            return found

    done, failed = predict(Wrong(), [Picture(name) for name in NAMES])
    assert list(failed) == ["3.png"]
    assert done == [*NAMES[:3], *NAMES[4:]]


def test_a_missing_package_and_a_mistake_in_the_program_end_the_prediction(predict):
    with pytest.raises(MissingPackage):
        predict(Network(), [Picture("0.png"), Picture("1.png", MissingPackage("pydicom"))])
    with pytest.raises(NameError):
        predict(Network([3], NameError("x")), [Picture(name) for name in NAMES])
