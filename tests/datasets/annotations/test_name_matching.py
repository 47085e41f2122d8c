"""Listed names that differ from those of their files."""

import time
import unicodedata

import pytest

from datasets.annotations.name_matching import match_names

NFC = unicodedata.normalize("NFC", "\u00e9 1.png")
NFD = unicodedata.normalize("NFD", NFC)


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("file", "listed", "rule"),
    [
        ("x1.png", "images/x1.png", "drop the prefix 'images/'"),
        ("a/x1.png", "data/train/a/x1.png", "drop the prefix 'data/train/'"),
        ("a/x1.png", "x1.png", "add the folder 'a/'"),
        ("a/x1.png", "b/x1.png", "'a/' for 'b/'"),
        ("x1.png", "x1", "add '.png'"),
        ("x1", "x1.dcm", "drop '.dcm'"),
        ("x1.png", "x1.PNG", "'.png' for '.PNG'"),
        ("x1.jpg", "x1.png", "'.jpg' for '.png'"),
        ("1.2.840.1.dcm", "1.2.840.1", "add '.dcm'"),
        ("x1.png", "X1.png", "upper or lower case"),
        ("a/x1.png", "a\\x1.png", "no URL, backslash or blank"),
        ("x1.png", " x1.png ", "no URL, backslash or blank"),
        ("x1.png", "C:\\a\\x1.png", "no URL, backslash or blank, drop the prefix 'C:/a/'"),
        ("x 1.png", "https://host.org/a/x%201.png?raw=1", "no URL, backslash or blank, drop the prefix 'a/'"),
        ("x1.png", "s3://bucket/x1.png", "drop the prefix 's3://bucket/'"),
        ("a/x1.png", "/local/local-files/?d=a/x1.png", "'a/' for '/local/local-files/?d=a/'"),
        ("x1.png", "1a2b3c4d-x1.png", "drop the prefix of an upload"),
        ("x1.png", "/xrays/me/x1.png", "drop the prefix '/xrays/me/'"),
        ("x1.png", "../x1.png", "drop the prefix '../'"),
        (NFD, NFC, "another Unicode form"),
        (NFC, f"images/{NFD}", "another Unicode form, drop the prefix 'images/'"),
        (NFC, NFC.encode().decode("latin-1"), "another character encoding"),
        (NFC.encode().decode("cp437"), NFC, "another character encoding"),
        (NFC.encode("latin-1").decode("utf-8", "surrogateescape"), NFC, "another character encoding"),
    ],
)
def test_a_name_that_differs_from_its_file_is_matched_by_one_rule(tmp_path, file, listed, rule):
    match = match_names(files(tmp_path, file), [listed])[listed]
    assert (match.file, match.rule) == (file, rule)


@pytest.mark.parametrize(
    ("there", "listed"),
    [
        (["a/x1.png", "b/x1.png"], ["x1.png"]),  # two files
        (["x1.png", "X1.png"], ["x1.PNG"]),
        (["x1.png"], ["a/x1.png", "b/x1.png"]),  # two names
        (["x1.png"], ["x1.png", "a/x1.png"]),  # the file of another record
        (["x1.png"], ["./x1.png", "a/x1.png"]),
        (["x1.txt", "x1.json", "._x1.png", ".hidden/x1.png"], ["x1.png"]),  # no images
        (["x1.png"], ["x2.png", "", ".", "a\0", "\ud800.png", "http://[", "x" * 300]),
    ],
)
def test_what_could_be_two_things_or_is_nothing_is_no_match(tmp_path, there, listed):
    assert match_names(files(tmp_path, *there), listed) == {}


def test_the_closest_of_several_files_is_meant(tmp_path):
    folder = files(tmp_path, "a/x1.png", "b/x1.png", "b/X1.png")
    matches = match_names(folder, ["data/a/x1.png", "data/b/X1.png"])
    assert {name: match.file for name, match in matches.items()} == {
        "data/a/x1.png": "a/x1.png",
        "data/b/X1.png": "b/X1.png",
    }


def test_matching_takes_time_in_proportion_to_the_names(tmp_path):
    count = 1000
    folder = files(tmp_path, *(f"x{i}.png" for i in range(count)))
    start = time.process_time()
    matches = match_names(folder, [f"images/x{i}.PNG" for i in range(count)])
    assert time.process_time() - start < 3  # 0.1 s, and 100 000 in seconds
    assert len(matches) == count
    assert {match.rule for match in matches.values()} == {"drop the prefix 'images/', '.png' for '.PNG'"}
