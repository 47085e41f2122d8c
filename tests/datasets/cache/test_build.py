import multiprocessing
import random
import shutil
import threading
import time
from collections import namedtuple

import pytest
from PIL import Image

from datasets.cache import build as cache_build
from datasets.cache.build import ensure_cache, journal_file, part_file
from datasets.cache.file import cache_file, open_cache
from tests.helpers.cache import assert_holds, counted
from util.base.errors import DataError
from util.base.files import WriteError

pytest_plugins = ["tests.helpers.cache_fixtures"]

FORK = multiprocessing.get_context("fork")


def stop_after(monkeypatch, split, folder, num):
    """Begin to build, and be interrupted when `num` images are written."""
    real = cache_build._entry

    def entry(*args, **more):
        if len(done) == num:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args, **more)

    done = []
    with monkeypatch.context() as patch:
        patch.setattr(cache_build, "_entry", entry)
        with pytest.raises(KeyboardInterrupt):
            ensure_cache(split, folder, workers=2)


@pytest.mark.parametrize("num", [0, 1, 9, 13])
def test_an_interrupted_build_is_gone_on_with(make, folder, monkeypatch, num):
    split = make()
    stop_after(monkeypatch, split, folder, num)
    assert not cache_file(split, folder).exists()
    decoded = counted(monkeypatch)
    assert_holds(ensure_cache(split, folder, workers=1), split)
    assert sorted(decoded) == list(range(num, 14))
    assert not part_file(cache_file(split, folder)).exists()


def tear_journal(_split, file):
    journal_file(file).write_bytes(journal_file(file).read_bytes()[:-20])


def tear_pixels(_split, file):
    part_file(file).write_bytes(part_file(file).read_bytes()[:-20])


def spoil_pixels(_split, file):
    content = bytearray(part_file(file).read_bytes())
    content[-20] ^= 1
    part_file(file).write_bytes(content)


def add_pixels(_split, file):
    part_file(file).write_bytes(part_file(file).read_bytes() + b"more than the journal knows")


def change_first(split, _file):
    Image.new("L", (24, 24)).save(split.image_dir / "i0.png")


def lose_journal(_split, file):
    journal_file(file).unlink()


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [(tear_journal, 8), (tear_pixels, 8), (spoil_pixels, 8), (add_pixels, 9), (change_first, 0), (lose_journal, 0)],
)
def test_of_a_build_that_was_cut_off_only_what_is_right_is_kept(make, folder, monkeypatch, spoil, kept):
    split = make()
    stop_after(monkeypatch, split, folder, 9)
    spoil(split, cache_file(split, folder))
    decoded = counted(monkeypatch)
    assert_holds(ensure_cache(split, folder, workers=1), split)
    assert sorted(decoded) == list(range(kept, 14))


def test_two_jobs_at_once_build_one_cache(make, folder, monkeypatch):
    split, decoded = make(), counted(monkeypatch)
    monkeypatch.setattr(cache_build, "POLL_EVERY", 0.01)
    real = cache_build._decode
    monkeypatch.setattr(cache_build, "_decode", lambda *args: time.sleep(0.005) or real(*args))
    results = []
    jobs = [threading.Thread(target=lambda: results.append(ensure_cache(split, folder, workers=1))) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(results) == 3
    assert sorted(decoded) == list(range(14))
    for images in results:
        assert_holds(images, split)


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(make, folder, monkeypatch):
    split, decoded = make(num=3, side=600), counted(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 9, 1_000_000))
    with pytest.raises(WriteError, match="has 1 MB free, but the cache of split needs 2 MB more; free some space"):
        ensure_cache(split, folder, workers=1)
    assert not decoded


def test_a_disk_that_fills_up_is_told_and_the_next_start_goes_on(make, folder, monkeypatch):
    split, real = make(), cache_build._entry
    left = iter(range(6))

    def entry(*args, **more):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        return real(*args, **more)

    monkeypatch.setattr(cache_build, "_entry", entry)
    with pytest.raises(
        WriteError, match=r"split\.images\.part: cannot be written \(No space.*continues.*Free some space"
    ):
        ensure_cache(split, folder, workers=1)
    monkeypatch.undo()
    decoded = counted(monkeypatch)
    assert_holds(ensure_cache(split, folder, workers=1), split)
    assert sorted(decoded) == list(range(6, 14))


def test_a_folder_that_cannot_be_is_told(make, folder):
    folder.write_text("a file")
    with pytest.raises(WriteError, match=r"cannot be written \(.*image_cache=''"):
        ensure_cache(make(), folder, workers=1)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_an_image_that_cannot_be_read_is_named_and_mended_the_build_goes_on(make, folder, monkeypatch, content):
    split = make()
    path = split.image_dir / "i9.png"
    whole = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"i9\.png: cannot be read as an image .*remove image id 91"):
        ensure_cache(split, folder, workers=2)
    path.unlink()
    with pytest.raises(DataError, match=r"i9\.png: cannot be read \(No such file"):
        ensure_cache(split, folder, workers=2)
    path.write_bytes(whole)
    decoded = counted(monkeypatch)
    assert_holds(ensure_cache(split, folder, workers=1), split)
    assert sorted(decoded) == list(range(9, 14))


@pytest.mark.slow
def test_a_build_killed_at_ten_random_moments_is_completed_by_the_next_start(make, folder):
    """Each of the ten is a build of its own, killed once; then one that is killed ten times over."""
    draw, split = random.Random(0), make(num=60, side=150)
    durations = []
    for number in range(3):  # the first one, and any on a busy machine, takes longer
        began = time.monotonic()
        ensure_cache(split, folder / f"whole{number}", workers=2)
        durations.append(time.monotonic() - began)
    duration, expected = min(durations), cache_file(split, folder / "whole0").read_bytes()
    unfinished = 0
    for target in [*(folder / f"{number}" for number in range(10)), *[folder / "again and again"] * 10]:
        builder = FORK.Process(target=ensure_cache, args=(split, target), kwargs={"workers": 2})
        builder.start()
        time.sleep(draw.uniform(0, duration))
        builder.kill()
        builder.join()
        unfinished += not cache_file(split, target).exists()
        if cache_file(split, target).exists():
            assert_holds(open_cache(split, target), split)
        if target.name != "again and again":
            assert_holds(ensure_cache(split, target, workers=2), split)
            assert cache_file(split, target).read_bytes() == expected
    assert unfinished >= 10, "most were killed before they had ended"
    assert_holds(ensure_cache(split, folder / "again and again", workers=2), split)
