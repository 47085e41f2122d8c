"""How many images fit: measured, bounded, and 1 where nothing can be known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.predict import batch_size as free_memory
from util.predict.batch_size import LARGEST, SHARE, bytes_taken, choose_batch_size, free_bytes

CPU = torch.device("cpu")


@given(free=st.integers(0, 10**12), each=st.integers(1, 10**11))
def test_what_is_chosen_fits_into_its_share_and_is_at_least_one(free, each):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(free_memory, "free_bytes", lambda _: free)
        size = choose_batch_size(CPU, each)
    assert 1 <= size <= LARGEST["cpu"]
    assert size == 1 or size * each <= SHARE * free
    assert size == LARGEST["cpu"] or (size + 1) * each > SHARE * free


@pytest.mark.parametrize(("free", "each"), [(None, 5), (10**9, None), (10**9, 0)])
def test_without_a_measurement_images_go_one_by_one(monkeypatch, free, each):
    monkeypatch.setattr(free_memory, "free_bytes", lambda _: free)
    assert choose_batch_size(CPU, each) == 1


def test_the_share_of_a_control_group_counts(monkeypatch, tmp_path):
    (tmp_path / "proc").write_text("1:name=systemd:/x\n0::/slurm/job_1\n")
    (tmp_path / "slurm/job_1").mkdir(parents=True)
    (tmp_path / "slurm/job_1/memory.max").write_text("1000\n")
    (tmp_path / "slurm/job_1/memory.current").write_text("400\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8 kB\n")
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes(CPU) == 600
    (tmp_path / "slurm/job_1/memory.max").write_text("max\n")
    assert free_bytes(CPU) == 8 * 1024
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "none")
    assert free_bytes(CPU) is None


def test_what_work_takes_is_its_own_peak():
    if bytes_taken(CPU, int) is None:
        pytest.skip("the kernel does not count anew here")
    bytes_taken(CPU, lambda: np.ones(30_000_000))  # a higher peak of before does not count
    assert 60e6 < bytes_taken(CPU, lambda: np.ones(10_000_000)) < 120e6
