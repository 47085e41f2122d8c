"""Where the image is that an annotation names."""

import time

import pytest

from datasets.prepare.collection import Locator
from datasets.prepare.tree import open_tree
from util.base.errors import DataError


def locator(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return Locator(open_tree(root, follows_links=False))


@pytest.mark.parametrize(
    ("files", "name", "annotation", "expected"),
    [
        (["a/x.png", "b/x.png"], "a/x.png", "list.csv", "a/x.png"),
        (["b/x.png"], "a/x.png", "list.csv", None),
        (["b/x.png"], "a/x.png", "b/list.csv", None),
        (["b/x.png"], "x.png", "list.csv", "b/x.png"),
        (["b/x.png"], "x", "list.csv", "b/x.png"),
        (["data/b/x.png"], "b/x.png", "list.csv", "data/b/x.png"),
        (["b/x.png"], "/else/where/b/x.png", "list.csv", "b/x.png"),
        (["b/x.png"], "C:\\else\\b\\x.png", "list.csv", "b/x.png"),
        (["b/x.png"], "../b/x.png", "lists/list.csv", "b/x.png"),
        (["data/b/x.png"], "/else/where/b/x.png", "data/list.csv", "data/b/x.png"),
        (["data/b/x.png"], "/else/where/c/x.png", "data/list.csv", None),
        (["x.png", "a/x.png"], "x.png", "a/list.csv", "a/x.png"),
        (["a/x.png", "a/deeper/x.png"], "x.png", "a/list.csv", "a/x.png"),
    ],
)
def test_an_image_is_found_by_its_path_and_never_against_it(tmp_path, files, name, annotation, expected):
    finder = locator(tmp_path, *files)
    assert finder.find(name, annotation) == expected
    assert finder.missing == ([] if expected else [name])


def test_two_images_that_fit_equally_are_named(tmp_path):
    with pytest.raises(DataError, match=r"'x.png' may be a/x.png"):
        locator(tmp_path, "a/x.png", "b/x.png").find("x.png", "list.csv")


def test_one_image_stands_for_one_name_of_a_list(tmp_path):
    finder = locator(tmp_path, "x.png")
    for _ in range(2):
        assert finder.find("a/x.png", "list.csv") == "x.png"
    assert finder.find("b/x.png", "other.csv") == "x.png"
    with pytest.raises(DataError, match=r"'a/x.png' and 'b/x.png' would both be x.png"):
        finder.find("b/x.png", "list.csv")


def test_many_images_of_one_name_in_folders_of_their_own_take_no_time(tmp_path):
    files = [f"study{i}/image.png" for i in range(500)]
    finder = locator(tmp_path, *files)
    start = time.process_time()
    assert [finder.find(file, "list.csv") for file in files] == files
    assert [finder.find("image", f"study{i}/image.xml") for i in range(500)] == files
    assert time.process_time() - start < 1
