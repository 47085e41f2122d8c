"""scripts/prepare_tbx11k.py on a download that holds more than files: links, pipes, devices."""

import os
import shutil

import pytest

pytest_plugins = ["tests.helpers.prepare_fixtures"]


def images_of(root):
    return [path for path in (root / "imgs").rglob("*") if path.is_file()]


def test_a_link_that_leads_out_of_the_download_is_refused(official, tmp_path, ask):
    source, secret = tmp_path / "source", tmp_path / "secret"
    shutil.copytree(official, source)
    secret.mkdir()
    (secret / "key.txt").write_text("top secret")
    shutil.copy(official / "imgs/tb" / sorted((official / "imgs/tb").iterdir())[0].name, secret / "h9999.png")
    image = sorted((source / "imgs/tb").iterdir())[0]
    image.unlink()
    image.symlink_to(secret / "key.txt")
    (source / "imgs/linked").symlink_to(secret)
    inside = sorted((source / "imgs/sick").iterdir())[0]
    inside.rename(source / "kept.png")
    inside.symlink_to("../../kept.png")
    code, _, err = ask(source, "--output_dir", tmp_path / "data")
    name = image.relative_to(source).as_posix()
    assert f"{source}: 2 links lead out of it: imgs/linked, {name}. They are not followed" in err
    assert code == 2
    assert not (tmp_path / "data").exists()
    assert (secret / "key.txt").stat().st_nlink == 1
    image.unlink()
    (source / "imgs/linked").unlink()
    assert ask(source, "--output_dir", tmp_path / "data")[0] == 0
    assert (tmp_path / "data" / inside.relative_to(source)).is_file(), "a link within the download is followed"


@pytest.mark.parametrize("kind", ["folder", "files"])
def test_links_of_ones_own_are_followed_where_that_is_asked_for(official, tmp_path, ask, kind):
    """As on clusters, where a data folder is made of links to another disk."""
    source = tmp_path / "source"
    shutil.copytree(official, source, ignore=shutil.ignore_patterns("imgs"))
    if kind == "folder":
        (source / "imgs").symlink_to(official / "imgs")
    else:
        for path in images_of(official):
            link = source / path.relative_to(official)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    assert ask(source, "--output_dir", tmp_path / "data")[0] == 2
    assert ask(source, "--check")[0] == 0, "and training reads them as they are"
    assert ask(source, "--output_dir", tmp_path / "data", "--follow_links")[0] == 0
    assert {p.name for p in images_of(tmp_path / "data")} == {p.name for p in images_of(official)}


def test_what_is_no_regular_file_and_links_that_lead_round_stop_no_preparation(official, tmp_path, ask):
    source = tmp_path / "source"
    shutil.copytree(official, source)
    os.mkfifo(source / "imgs/tb/tb9999.png")
    (source / "imgs/tb/tb9998.png").symlink_to("/dev/zero")
    (source / "imgs/tb/loop.png").symlink_to(source / "imgs/tb/loop.png")
    (source / "imgs/loop").symlink_to(source / "imgs")
    assert ask(source, "--output_dir", tmp_path / "data")[0] == 0
    assert {p.name for p in images_of(tmp_path / "data")} == {p.name for p in images_of(official)}


@pytest.mark.parametrize("kind", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize(
    ("what", "wanted"),
    [("annotations/json/TBX11K_train.json", 2), ("lists/TBX11K_train.txt", 0), ("imgs/tb", 2), ("annotations/xml", 0)],
)
def test_a_check_ends_whatever_kind_of_file_stands_there(official, tmp_path, ask, kind, what, wanted):
    source = tmp_path / "source"
    shutil.copytree(official, source)
    path = source / what
    path = sorted(path.iterdir())[0] if path.is_dir() else path
    path.unlink()
    kind(path)
    code, out, _ = ask(source, "--check")
    assert code == wanted
    assert path.name in out or path.suffix == ".txt"
