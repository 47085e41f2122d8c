"""What inputs name: files, folders, patterns, archives."""

import os
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.files.dicom import write
from util.base.errors import UserError
from util.predict.inputs import list_images
from util.predict.outputs import PROGRESS_FILE

PIXELS = np.arange(20, dtype=np.uint8).reshape(4, 5)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)
    return path


def names(*inputs, **how):
    return [source.name for source in list_images(map(str, inputs), **how).images]


def zipped(path, *members):
    picture(path.parent / "for_zip.png")
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(zipfile.ZipInfo(member), (path.parent / "for_zip.png").read_bytes())
    return path


def test_files_of_one_name_in_several_folders_keep_their_paths(tmp_path):
    picture(tmp_path / "a/x.png"), picture(tmp_path / "b/x.png"), picture(tmp_path / "b/deep/x.jpg")
    assert names(tmp_path) == ["a/x.png", "b/x.png", "b/deep/x.jpg"]
    assert names(tmp_path / "a", tmp_path / "b") == ["a/x.png", "b/x.png", "b/deep/x.jpg"]
    assert names(tmp_path / "b/x.png") == ["x.png"]
    assert names(tmp_path / "b/x.png", tmp_path / "a/x.png") == ["b/x.png", "a/x.png"]


def test_an_image_named_twice_counts_once_also_through_a_link(tmp_path):
    picture(tmp_path / "a/x.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a/x.png")
    listing = list_images([str(tmp_path / "a"), str(tmp_path / "a/x.png"), str(tmp_path / "link.png")])
    assert [s.name for s in listing.images] == ["a/x.png"]
    assert listing.num_repeated == 2


def test_a_link_back_does_not_go_round(tmp_path):
    picture(tmp_path / "a/x.png")
    (tmp_path / "a/back").symlink_to(tmp_path)
    assert names(tmp_path) == ["a/x.png"]


def test_in_a_folder_only_images_count_and_the_rest_is_told(tmp_path):
    picture(tmp_path / "x.PNG"), picture(tmp_path / ".hidden.png"), picture(tmp_path / ".git/y.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    write(tmp_path / "IM0001", PIXELS)
    listing = list_images([str(tmp_path)])
    assert [s.name for s in listing.images] == ["IM0001", "x.PNG"]
    assert sorted(Path(p).name for p in listing.ignored) == ["DICOMDIR", "notes.txt"]


def test_pictures_that_a_prediction_drew_are_no_input(tmp_path):
    picture(tmp_path / "x.png"), picture(tmp_path / "pictures/y.png")
    for out in ("out", "other"):
        picture(tmp_path / out / "pictures/in/x.png.png")
        (tmp_path / out / PROGRESS_FILE).write_text("{}")
    assert names(tmp_path) == ["x.png", "pictures/y.png"]
    assert sorted(names(f"{tmp_path}/**/*.png")) == ["pictures/y.png", "x.png"]
    (tmp_path / "link").symlink_to(tmp_path / "out/pictures")
    assert names(tmp_path) == ["x.png", "pictures/y.png"]


def test_links_that_lead_round_and_round_are_listed(tmp_path):
    picture(tmp_path / "x.png")
    for name in ("self", "self.png"):
        (tmp_path / name).symlink_to(tmp_path / name)
    for text in (tmp_path, f"{tmp_path}/*"):
        listing = list_images([str(text)])
        assert [s.name for s in listing.images] == ["x.png"]
        assert [Path(p).name for p, _ in listing.unreadable] == ["self", "self.png"]


def test_a_pipe_keeps_nobody_waiting(tmp_path):
    picture(tmp_path / "x.png")
    os.mkfifo(tmp_path / "pipe"), os.mkfifo(tmp_path / "pipe.png")
    listing = list_images([str(tmp_path)])
    assert [s.name for s in listing.images] == ["x.png"]
    assert [Path(p).name for p in listing.ignored] == ["pipe", "pipe.png"]


def test_a_folder_that_a_pattern_names_is_searched_as_if_the_shell_had_named_it(tmp_path):
    picture(tmp_path / "case_a/1.png"), picture(tmp_path / "case_b/deep/2.png"), picture(tmp_path / "case_c.png")
    assert names(f"{tmp_path}/case_*") == ["case_a/1.png", "case_b/deep/2.png", "case_c.png"]
    listing = list_images([f"{tmp_path}/**"])
    assert len(listing.images) == 3
    assert not listing.num_repeated


def test_patterns_are_searched_and_begin_at_their_fixed_part(tmp_path):
    picture(tmp_path / "a/1.png"), picture(tmp_path / "a/b/2.png"), picture(tmp_path / "a/3.jpg")
    assert names(f"{tmp_path}/a/**/*.png") == ["1.png", "b/2.png"]
    assert names(f"{tmp_path}/*/b/*") == ["a/b/2.png"]
    picture(tmp_path / "odd[1].png")
    assert names(tmp_path / "odd[1].png") == ["odd[1].png"]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("nowhere.png", "no such file"),
        ("none*.png", "matches no file"),
        ("empty", "holds no image"),
        ("text", "notes.txt"),
    ],
)
def test_an_input_without_an_image_is_refused(tmp_path, text, phrase):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/notes.txt").write_text("no image")
    with pytest.raises(UserError, match=phrase):
        list_images([f"{tmp_path}/{text}"])


def test_what_one_input_ignores_is_no_news_about_another(tmp_path):
    picture(tmp_path / "a/x.png"), (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no image; give"):
        list_images([str(tmp_path / "a"), str(tmp_path / "empty")])


def test_an_archive_is_read_without_unpacking_it(tmp_path):
    path = zipped(tmp_path / "z.zip", "tb/x.png", "tb/deep/x.png", "readme.txt", "__MACOSX/tb/._x.png")
    listing = list_images([str(path)])
    assert [s.name for s in listing.images] == ["tb/deep/x.png", "tb/x.png"]
    assert [Path(p).name for p in listing.ignored] == ["readme.txt"]
    assert np.array_equal(np.asarray(listing.images[0].read()), PIXELS)
    assert {p.name for p in tmp_path.iterdir()} == {"z.zip", "for_zip.png"}


@pytest.mark.parametrize("member", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "..\\evil.png", "C:\\evil.png"])
def test_a_member_that_leads_out_of_its_archive_is_not_read(tmp_path, member):
    listing = list_images([str(zipped(tmp_path / "z.zip", "good.png", member))])
    assert [s.name for s in listing.images] == ["good.png"]
    assert "leads out of the archive" in listing.unreadable[0][1]


def test_dicom_in_an_archive_is_known_by_its_content(tmp_path):
    write(tmp_path / "IM0001", PIXELS)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "IM0001", "study/IM0001")
    source = list_images([str(tmp_path / "z.zip")]).images[0]
    assert source.name == "study/IM0001"
    assert np.array_equal(np.asarray(source.read()), PIXELS)


def test_what_is_no_archive_is_listed(tmp_path):
    (tmp_path / "z.zip").write_text("no archive")
    listing = list_images([str(tmp_path / "z.zip")])
    assert not listing.images
    assert "cannot be read as a zip archive" in listing.unreadable[0][1]


def test_a_folder_that_may_not_be_searched_is_listed(tmp_path, monkeypatch):
    picture(tmp_path / "x.png")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    listing = list_images([str(tmp_path)])
    assert [s.name for s in listing.images] == ["x.png"]
    assert listing.unreadable == [(str(tmp_path / "locked"), "Permission denied; check the permissions of the folder")]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_place_are_one_image(tmp_path):
    assert names(zipped(tmp_path / "z.zip", "a/x.png", "./a/x.png", "a//x.png", "a/x.png")) == ["a/x.png"]


part = st.sampled_from(["a", "b", "x.png", "ü ñ", "<b>&", "..", ".", "C:", "c\\..\\d", "n" * 250])
member = st.lists(part, min_size=1, max_size=4).map(lambda parts: "/".join([*parts, "y.png"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(member, min_size=1, max_size=5, unique=True), st.booleans())
def test_names_are_different_paths_that_stay_below(tmp_path, members, is_with_folder):
    (tmp_path / "z.zip").unlink(missing_ok=True)
    picture(tmp_path / "folder/x.png")
    inputs = [str(zipped(tmp_path / "z.zip", *members)), *([str(tmp_path / "folder")] if is_with_folder else [])]
    found = [s.name for s in list_images(inputs).images]
    assert len(set(found)) == len(found)
    for name in found:
        parts = PurePosixPath(name).parts
        assert ".." not in parts
        assert not name.startswith("/")
        assert max(len(p.encode()) for p in parts) <= 200


def test_an_input_that_is_named_and_no_regular_file_is_told_when_it_is_read(tmp_path):
    for name, make in (("pipe.png", os.mkfifo), ("zero.png", lambda path: path.symlink_to("/dev/zero"))):
        make(tmp_path / name)
        (source,) = list_images([str(tmp_path / name)]).images
        with pytest.raises(OSError, match="not a regular file but a"):
            source.read()


def test_an_archive_that_is_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "z.zip")
    listing = list_images([f"{tmp_path}/*.zip"])
    assert "not a regular file but a FIFO" in listing.unreadable[0][1]


def test_a_member_that_states_another_size_than_it_has_is_not_read(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(10**6))
    changed = bytearray(path.read_bytes())
    place = changed.find(b"PK\x01\x02")
    changed[place + 24 : place + 28] = (100).to_bytes(4, "little")
    path.write_bytes(changed)
    with pytest.raises(zipfile.BadZipFile):
        list_images([str(path)]).images[0].read()
