"""The page of a prediction in a real browser: opens from the disk, sorts, shows pictures, asks for nothing outside."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import Browser
from util.predict.outputs import PAGE_FILE, OutputSettings
from util.predict.page.write import PageHeader, write_page
from util.predict.results import ImageResult

NAMES = {1: "Active", 2: "<i>Latent</i>"}
EVIL = "\"'><img src=x onerror=alert(1)><script>document.title='broken'</script>&amp;.png"
HEADER = PageHeader(
    "Findings", {"checkpoint": "</dd><script>alert(1)</script>"}, [("</ul><b>bad.png", "<script>alert(2)</script>")]
)


def thumbnail(level):
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(content, "JPEG")
    return base64.b64encode(content.getvalue()).decode()


def row(folder, name, *scores, label=1):
    picture = None
    if scores and not name.startswith("plain"):
        picture = f"pictures/{name}.png"
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (30, 20)).save(folder / picture)
    boxes = [[0.0, 0.0, 5.0, 5.0]] * len(scores)
    return ImageResult(
        name, (1, 1), (20, 30), list(scores), [label] * len(scores), boxes, picture, thumbnail(len(scores))
    )


def page(folder, rows=None):
    folder = folder / "out # 100% ü"
    folder.mkdir()
    rows = rows or [
        row(folder, "b10.png", 0.9, 0.6),
        row(folder, EVIL.replace("/", "_"), 0.8, label=2),
        row(folder, "deep/ü #?%41.png", 0.7),
        row(folder, "b2.png", 0.2),
        row(folder, "plain.png"),
    ]
    write_page(OutputSettings(folder, "all", NAMES, 0.5, "TB score"), HEADER, iter(rows))
    return folder / PAGE_FILE


@pytest.fixture
def browser():
    with Browser() as browser:
        yield browser


def names(browser):
    return browser.run(
        "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.cells[1].textContent)"
    )


def click(browser, selector):
    browser.run(f"document.querySelector({selector!r}).click()")


@pytest.mark.slow
def test_it_opens_from_the_disk_and_nothing_leaves(browser, tmp_path):
    browser.open(page(tmp_path))
    browser.run("new Promise(done => setTimeout(done, 300))")
    assert len(names(browser)) == 5
    assert [u for u in browser.requests() if not u.startswith(("file:", "data:"))] == []
    assert browser.complaints() == []
    assert browser.run("document.title") == "Findings"
    assert "Research use only. Not a medical device." in browser.run("document.querySelector('header').textContent")


@pytest.mark.slow
def test_a_heading_sorts_and_sorts_back(browser, tmp_path):
    browser.open(page(tmp_path))
    start = names(browser)
    click(browser, "button[data-key=score]")
    assert names(browser) == start[::-1]
    assert browser.run("document.querySelector('th:nth-child(3)').getAttribute('aria-sort')") == "ascending"
    click(browser, "button[data-key=score]")
    assert names(browser) == start
    click(browser, "button[data-key=name]")
    plain = [name for name in names(browser) if name.startswith("b")]
    assert plain == ["b2.png", "b10.png"]  # as people count
    click(browser, "button[data-key=boxes]")
    assert names(browser)[0] == "b10.png"
    assert browser.complaints() == []


@pytest.mark.slow
def test_the_filter_looks_at_names_and_classes(browser, tmp_path):
    browser.open(page(tmp_path))
    type_in = "const f = document.getElementById('filter'); f.value = {!r}; f.dispatchEvent(new Event('input'))"
    browser.run(f"{{ {type_in.format('B1')} }}")
    assert names(browser) == ["b10.png"]
    browser.run(f"{{ {type_in.format('<i>latent')} }}")
    assert len(names(browser)) == 1
    browser.run(f"{{ {type_in.format('')} }}")
    click(browser, "#only")
    assert len(names(browser)) == 3
    assert browser.run("document.getElementById('count').textContent") == "3 of 5 images"


@pytest.mark.slow
def test_every_picture_and_every_thumbnail_is_shown(browser, tmp_path):
    browser.open(page(tmp_path))
    load = "i => (i.loading = 'eager', i.decode().then(() => i.naturalWidth))"
    shown = f"[...document.querySelectorAll('td img')].map({load})"
    assert browser.run(f"Promise.all({shown})") == [8] * 5
    click(browser, "tbody a")
    for _ in range(4):
        loaded = browser.run(
            "document.getElementById('picture').decode().then(() => document.getElementById('picture').naturalWidth)"
        )
        assert loaded == 30
        click(browser, "#next")
    assert browser.run("document.getElementById('large').open") is True
    click(browser, "#close")
    assert browser.run("document.getElementById('large').open") is False
    assert browser.complaints() == []


@pytest.mark.slow
def test_a_name_is_a_name_and_never_a_program(browser, tmp_path):
    browser.open(page(tmp_path))
    assert EVIL.replace("/", "_") in names(browser)
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('td i, li b').length") == 0
    told = browser.run("document.querySelector('.trouble li').textContent")
    assert told == "</ul><b>bad.png: <script>alert(2)</script>"


@pytest.mark.slow
def test_the_policy_stops_what_asks_for_a_network_all_the_same(browser, tmp_path):
    browser.open(page(tmp_path))
    outcome = browser.run("fetch('https://example.org/x').then(() => 'left', () => 'stopped')")
    assert outcome == "stopped"
    told = [m["params"]["entry"]["text"] for m in browser.complaints() if m["method"] == "Log.entryAdded"]
    assert any("Content Security Policy" in text for text in told)


def test_without_a_browser_too_no_name_gets_out_of_its_place(tmp_path):
    text = page(tmp_path).read_text()
    assert text.count("<script>") == 1
    assert "onerror=alert" not in re.sub(r"&#?\w+;[^<]*", "", text)
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"(https?:|//)", text)


def test_a_page_of_many_images_keeps_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("util.predict.page.write.THUMBNAIL_BYTES", 10_000)
    rows = [row(tmp_path, f"{number}.png") for number in range(100)]
    text = page(tmp_path, rows).read_text()
    assert text.count("<tr class=") == 100
    assert 0 < text.count("data:image/jpeg") < 30
