"""A prediction with the tiny training: `pytest_plugins = ["tests.helpers.training_fixtures", "tests.helpers.predict_fixtures"]`."""

import pytest

from tests.helpers.predict import predict


@pytest.fixture
def run(trained, tmp_path):
    """Predict into tmp_path/out with the checkpoint of the tiny training."""
    return lambda *arguments: predict(
        "--checkpoint", trained / "checkpoint.pth", *arguments, "--output_dir", tmp_path / "out"
    )
