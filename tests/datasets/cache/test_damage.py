"""What a disk has not kept of the cache of images is noticed: never trained on, and built anew."""

import pickle
import random
import sys

import pytest

from datasets.cache import build as cache_build
from datasets.cache.build import ensure_cache, journal_file
from datasets.cache.file import MARK, UnusableCache, cache_file, open_cache
from tests.helpers.cache import assert_holds
from tests.helpers.files.damage import flipped, with_zeros
from tests.helpers.training import load_script
from util.base.errors import DataError
from util.distributed.exit_codes import run_to_exit_code

pytest_plugins = ["tests.helpers.cache_fixtures", "tests.helpers.training_fixtures"]


def is_noticed(split, folder):
    """When it is opened, or when its images are read."""
    try:
        images = open_cache(split, folder)
        for i in range(split.num_images):
            images(i)
    except DataError as error:  # an UnusableCache is one
        return str(cache_file(split, folder)) in str(error)
    return False


@pytest.mark.parametrize("damage", [flipped, with_zeros])
def test_50_of_50_damages_are_noticed_while_training_and_by_a_check(make, folder, damage):
    split, draw = make(), random.Random(0)
    ensure_cache(split, folder, workers=1)
    file = cache_file(split, folder)
    whole = file.read_bytes()
    for _ in range(50):
        file.write_bytes(damage(whole, draw))
        assert is_noticed(split, folder)
        with pytest.raises(UnusableCache):
            open_cache(split, folder, checks_pixels=True)
    file.write_bytes(whole)
    assert not is_noticed(split, folder)


def test_every_bit_around_the_edges_counts(make, folder):
    split = make(3)
    ensure_cache(split, folder, workers=1)
    file = cache_file(split, folder)
    whole = file.read_bytes()
    for place in (*range(20), *range(len(whole) - 45, len(whole))):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        assert is_noticed(split, folder), place


def test_the_message_of_a_read_says_what_to_do_and_other_images_are_served(make, folder):
    split = make()
    images = ensure_cache(split, folder, workers=1)
    content = bytearray(cache_file(split, folder).read_bytes())
    content[int(images.starts[5]) + 7] ^= 1
    cache_file(split, folder).write_bytes(content)
    images = open_cache(split, folder)
    images(4)
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"split\.images: the pixels of image number 5 are damaged; remove the file"
        ):
            images(5)
    images(6)


def test_an_image_is_compared_once_in_each_process(make, folder, monkeypatch):
    split, compared = make(), []
    images = ensure_cache(split, folder, workers=1)
    real = type(images).is_whole
    monkeypatch.setattr(type(images), "is_whole", lambda self, i: compared.append(i) or real(self, i))
    for _ in range(3):
        images(2)
    assert compared == [2]
    pickle.loads(pickle.dumps(images))(2)  # as another process gets it
    assert compared == [2, 2]


def test_a_cache_of_the_format_before_is_rebuilt(make, folder, capsys):
    split = make()
    ensure_cache(split, folder, workers=1)
    file = cache_file(split, folder)
    file.write_bytes(file.read_bytes().replace(MARK, b"decoded images 1"))
    with pytest.raises(UnusableCache, match="was built by another version, in another format"):
        open_cache(split, folder)
    assert_holds(ensure_cache(split, folder, workers=1), split)
    assert "note: " in capsys.readouterr().err


LINES = {
    "zeros": bytes(40),
    "no JSON": b"{nothing",
    "no list": b"7",
    "too short": b'["i5.png", 1, 2, "a", 16, 24, 24, 1]',
    "too long": b'["i5.png", 1, 2, "a", 16, 24, 24, 1, 5, 6]',
    "other types": b'["i5.png", 1, 2, "a", "16", 24, 24, 1, 5]',
    "a flag": b'["i5.png", 1, 2, "a", 16, true, 24, 1, 5]',
    "a fraction": b'["i5.png", 1, 2, "a", 16, 24.0, 24, 1, 5]',
    "below 0": b'["i5.png", 1, 2, "a", -16, 24, 24, 1, 5]',
    "two channels": b'["i5.png", 1, 2, "a", 16, 24, 24, 2, 5]',
    "null": b"null",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "blank": b"",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_broken_line_of_the_journal_ends_what_is_kept(make, folder, monkeypatch, line, place):
    split = make(8)
    with monkeypatch.context() as patch:
        patch.setattr(cache_build, "dump_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ensure_cache(split, folder, workers=1)
    journal = journal_file(cache_file(split, folder))
    lines = journal.read_bytes().split(b"\n")
    lines[place] = line
    journal.write_bytes(b"\n".join(lines))
    decoded, real = [], cache_build.load_image
    monkeypatch.setattr(cache_build, "load_image", lambda *args: decoded.append(args[1]) or real(*args))
    assert_holds(ensure_cache(split, folder, workers=1), split)
    assert decoded == list(range(max(0, place - 1), 8))


def test_the_script_notices_damage_in_a_finished_cache_and_rebuilds_it(phantom, tmp_path, monkeypatch, capsys):
    script, config = load_script("build_cache"), "config/DINO/DINO_tiny_phantom.py"
    command = ["build_cache", "-c", config, "--data_path", str(phantom), "--cache", str(tmp_path / "cache")]
    monkeypatch.setattr(sys, "argv", command)
    assert run_to_exit_code(script.main) == 0
    [file, _] = sorted((tmp_path / "cache").glob("*.images"))
    whole = file.read_bytes()
    capsys.readouterr()
    assert run_to_exit_code(script.main) == 0
    assert "rebuilding" not in capsys.readouterr().err
    file.write_bytes(whole[:5000] + bytes(20_000) + whole[25_000:])
    assert run_to_exit_code(script.main) == 0
    assert f"note: {file}: the pixels of " in (told := capsys.readouterr().err)
    assert "are damaged" in told
    assert "rebuilding it" in told
    assert file.read_bytes() == whole
