"""What all tests share."""

import os
from pathlib import Path

import pytest

# MKL has other code for processors with AVX-512, whose products of float32 matrices differ by more than the golden
# figures allow: those are of a processor without. It is read when torch is imported.
os.environ.setdefault("MKL_CBWR", "AVX2")

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder with real annotations and golden figures that may lie beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def no_older_compilation(tmp_path_factory):
    """What torch.compile kept on the disk has the conditions of the code of its day, and would be taken for ours."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield
