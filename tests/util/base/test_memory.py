import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from util.base import memory

MEGABYTE = 2**20
ROOT = Path(__file__).parents[3]
CHILD = """
from util.base.memory import peak_resident_bytes
print(peak_resident_bytes())
held = bytearray(b"x") * 100 * 2**20  # written to, so that it is resident
del held
print(peak_resident_bytes())
"""


def peaks_of_a_child():
    """What a small program reads at its start, and after it has held 100 MB and given them back."""
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_memory_that_was_given_back_stays_in_the_peak():
    first, then = peaks_of_a_child()
    assert first + 90 * MEGABYTE < then < first + 220 * MEGABYTE


@pytest.mark.skipif(not memory.STATUS.exists(), reason="the kernel keeps no record of a program")
def test_a_child_does_not_inherit_the_peak_of_its_parent():
    held = bytearray(b"x") * (200 * MEGABYTE)
    assert MEGABYTE < peaks_of_a_child()[0] < len(held) < memory.peak_resident_bytes()


@pytest.mark.parametrize(("platform", "factor"), [("darwin", 1), ("other", 1024)])
def test_where_there_is_no_record_the_largest_resident_size_is_asked_for(monkeypatch, tmp_path, platform, factor):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(memory.sys, "platform", platform)
    raw = memory.resource.getrusage(memory.resource.RUSAGE_SELF).ru_maxrss
    assert memory.peak_resident_bytes() == pytest.approx(raw * factor, rel=0.2)


def test_a_record_without_the_figure_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    memory.STATUS.write_text("Name:\tpython\n")
    assert memory.peak_resident_bytes() > MEGABYTE
    memory.STATUS.write_text("Name:\tpython\nVmHWM:\t    2048 kB\n")
    assert memory.peak_resident_bytes() == 2 * MEGABYTE


MEASURE = """
import numpy as np, sys
from util.base.memory import keep_freed_memory, resident_bytes
assert keep_freed_memory(sys.argv[1] == "kept")
before = resident_bytes()
block = np.ones(40_000_000)
del block
print(resident_bytes() - before)
"""


@pytest.mark.parametrize(("how", "low", "high"), [("kept", 250e6, 400e6), ("given back", -50e6, 50e6)])
def test_freed_memory_stays_or_goes(how, low, high):
    """A block of 320 MB."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("another C library than glibc")
    done = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, cwd=ROOT, check=True)
    assert low < int(done.stdout) < high
