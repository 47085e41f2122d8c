"""A prediction with the tiny training, for modules that name this and training_fixtures in `pytest_plugins`."""

import pytest

from tests.helpers.predict import predict


@pytest.fixture
def run(trained, tmp_path):
    """Predict into tmp_path/out with the checkpoint of the tiny training."""
    return lambda *arguments: predict(
        "--checkpoint", trained / "checkpoint.pth", *arguments, "--output_dir", tmp_path / "out"
    )
