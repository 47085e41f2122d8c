"""What the annotation files of a download may call their images."""

import json

import pytest
from PIL import Image

from datasets.prepare.plan import make_plan
from datasets.prepare.source import recognise
from datasets.prepare.tree import open_tree
from util.base.errors import DataError

CATEGORIES = [{"id": 1, "name": "ActiveTuberculosis"}]


def plan_of(folder, name, lists=("TBX11K_train", "TBX11K_val")):
    for number, which in enumerate(lists):
        (folder / "imgs").mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(folder / f"imgs/h000{number}.png")
        image = {"id": 1, "file_name": name.format(number), "width": 8, "height": 8}
        content = {"images": [image], "annotations": [], "categories": CATEGORIES}
        (folder / f"{which}.json").write_text(json.dumps(content))
    return make_plan(recognise(open_tree(folder, follows_links=False)))


@pytest.mark.parametrize("lists", [("TBX11K_train", "TBX11K_val"), ("TBX11K_train",)])
@pytest.mark.parametrize("folder", ["../../evil/", "health/../../../evil/", "/evil/", "TBX11K/imgs/health/", ""])
def test_an_image_is_laid_out_by_its_kind_wherever_a_list_places_it(tmp_path, folder, lists):
    plan = plan_of(tmp_path, f"{folder}h000{{}}.png", lists)
    assert set(plan.images) == {f"health/h000{i}.png" for i in range(len(lists))}
    assert plan.splits["TBX11K_train"].file_names.tolist() == ["health/h0000.png"]


@pytest.mark.parametrize("name", ["../patient.png", "patient{}.png", ""])
def test_names_of_no_image_of_tbx11k_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"TBX11K_train\.json: 1 file names are none of TBX11K"):
        plan_of(tmp_path, name)
