import pytest

from util.training.step_size import StepSize


def test_a_cut_tells_its_arithmetic():
    assert str(StepSize(1, 2, 2)) == "1 per rank x 2 accumulation x 2 ranks = 4"


@pytest.mark.parametrize(
    ("ours", "mend"),
    [
        (StepSize(1, 1, 2), "Set gradient_accumulation_steps=4"),
        (StepSize(4, 9, 2), "Set gradient_accumulation_steps=1"),
        (StepSize(3, 1, 1), "Choose batch_size, gradient_accumulation_steps and ranks with the product 8"),
        (StepSize(16, 1, 1), "Choose batch_size, gradient_accumulation_steps and ranks with the product 8"),
    ],
)
def test_a_cut_is_mended_to_as_many_images_per_step(ours, mend):
    assert ours.how_to_match(StepSize(2, 2, 2)) == mend
