"""A checkpoint whose bytes are not those that were written is refused, wherever they differ."""

import io
import random
import zipfile

import pytest
import torch

from tests.helpers.files.damage import flipped, with_zeros
from util.training.checkpoints import file as checkpoint_file
from util.training.checkpoints.checkpoint import CheckpointError, load
from util.training.checkpoints.file import COMMENT_BYTES, DamagedFile, read_tensors, save

CONTENT = {"model": {f"w{i}": torch.arange(i * 40.0) for i in range(40)}, "epoch": 3}


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "a.pth", CONTENT)
    return tmp_path / "a.pth"


@pytest.mark.parametrize("damage", [flipped, with_zeros])
def test_every_flipped_bit_and_every_page_of_zeros_is_noticed(path, damage):
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(200):
        path.write_bytes(damage(whole, draw))
        with pytest.raises(CheckpointError):
            load(path)


def test_every_bit_of_the_end_and_every_byte_of_the_beginning_counts(path):
    whole = path.read_bytes()
    ends = [(place, bit) for place in range(len(whole) - COMMENT_BYTES - 22, len(whole)) for bit in range(8)]
    for place, bit in [*ends, *((place, place % 8) for place in range(200))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            load(path)


@pytest.mark.parametrize("lost", [1, 2, COMMENT_BYTES - 1, COMMENT_BYTES, COMMENT_BYTES + 1, COMMENT_BYTES + 22, 5000])
def test_a_file_that_lost_its_end_is_refused(path, lost):
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(CheckpointError, match="cut short"):
        load(path)


@pytest.mark.parametrize("more", [b"\n", bytes(4096), b"PK\x05\x06" + bytes(17)])
def test_a_file_that_got_longer_is_refused(path, more):
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(CheckpointError):
        load(path)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_pytorch_and_zip_programs_read_the_file_as_any_other(path, is_mapped):
    again = torch.load(path, weights_only=True, mmap=is_mapped)
    assert again["epoch"] == 3
    assert all(torch.equal(again["model"][k], v) for k, v in CONTENT["model"].items())
    assert zipfile.is_zipfile(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"CRC-32 of the bytes before")


def test_what_was_changed_and_saved_by_pytorch_is_read_by_the_checksums_inside(path):
    torch.save({**torch.load(path, weights_only=True), "epoch": 4}, path)
    assert load(path)["epoch"] == 4
    whole = path.read_bytes()
    place = whole.find(CONTENT["model"]["w39"].numpy().tobytes())
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(CheckpointError, match=r"a\.pth: is damaged: .* is not what was written"):
        load(path)


def test_a_file_of_the_format_before_zip_is_read(tmp_path):
    torch.save(CONTENT, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load(tmp_path / "old.pth")["epoch"] == 3


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path, kind):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    (tmp_path / "a.pth").write_bytes(stream.getvalue())
    with pytest.raises(CheckpointError, match="it unpacks to more than its length"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize("more", [bytes(100), b"PK", b"a tool's own words"])
def test_what_other_tools_leave_behind_an_archive_is_no_damage(tmp_path, more):
    torch.save(CONTENT, tmp_path / "a.pth")
    with (tmp_path / "a.pth").open("ab") as file:
        file.write(more)
    assert load(tmp_path / "a.pth")["epoch"] == 3


def test_the_comment_of_another_tool_is_no_damage(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as archive:
        archive.comment = b"from the model zoo"
    assert load(tmp_path / "a.pth")["epoch"] == 3


def test_a_file_is_read_to_its_end_though_another_one_takes_its_name(path, monkeypatch):
    """What was checked is what is read."""
    check = checkpoint_file.require_whole

    def replaced(file):
        check(file)
        path.with_name("b.pth").write_bytes(b"damaged")
        path.with_name("b.pth").replace(path)

    monkeypatch.setattr(checkpoint_file, "require_whole", replaced)
    assert read_tensors(path)["epoch"] == 3


def test_a_small_file_too_has_its_checksum(tmp_path):
    save(tmp_path / "a.pth", {})
    assert load(tmp_path / "a.pth") == {}
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(DamagedFile):
        read_tensors(tmp_path / "a.pth")


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_damaged_own_checkpoint_names_the_newest_whole_one_beside_it(tmp_path):
    own, *older = [tmp_path / name for name in ("checkpoint.pth", "checkpoint.1.pth", "checkpoint.2.pth")]
    others = [tmp_path / name for name in ("best.pth", "checkpoint0010.pth", "checkpoint0002.pth")]
    for file in (own, *older, *others):
        save(file, CONTENT)
    spoil(own)
    for newest in (*older, *others):
        with pytest.raises(CheckpointError) as caught:
            load(own)
        text = str(caught.value)
        assert text.startswith(f"{own}: is damaged: its checksum is another one, so it is not what was written. ")
        way_out = "rename it to checkpoint.pth" if newest in older else f"copy it to {own}"
        assert text.count(".pth") == 3
        assert str(newest) in text
        assert way_out in text
        spoil(newest)
    with pytest.raises(CheckpointError, match=r"Copy it again, or take another one$"):
        load(own)


def test_another_damaged_checkpoint_names_the_whole_one_of_its_folder(tmp_path):
    best, own = tmp_path / "best.pth", tmp_path / "checkpoint.pth"
    save(best, CONTENT)
    save(own, CONTENT)
    spoil(best)
    with pytest.raises(CheckpointError, match=r"Copy it again, or take .*/checkpoint\.pth, which is whole$"):
        load(best)


def test_the_same_bytes_under_another_name_are_not_offered(tmp_path):
    save(tmp_path / "checkpoint.pth", CONTENT)
    (tmp_path / "checkpoint.1.pth").hardlink_to(tmp_path / "checkpoint.pth")
    spoil(tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="Copy it again"):
        load(tmp_path / "checkpoint.pth")
