"""A category id means the same class in a checkpoint and in the data, or that is told."""

from pathlib import Path

import pytest
import torch
from torch import nn

from util.training.checkpoints.categories import CategoryError, other_classes, require_same_classes
from util.training.checkpoints.weights import load_what_fits

FILE = Path("theirs.pth")
THEIRS = {"category_names": {"1": "A", "2": "B", "10": "C"}}


def test_names_are_compared_id_by_id():
    assert other_classes(THEIRS, {1: "A", 2: "B", 10: "C"}) == {}
    assert other_classes(THEIRS, {1: "B", 2: "A", 10: "C"}) == {1: ("A", "B"), 2: ("B", "A")}
    assert other_classes(THEIRS, {1: "A", 3: "B"}) == {2: ("B", None), 3: (None, "B"), 10: ("C", None)}


@pytest.mark.parametrize("content", [{}, {"category_names": None}])
def test_a_checkpoint_without_names_says_nothing_of_its_classes(content):
    assert other_classes(content, {1: "A"}) == {}
    require_same_classes(content, {1: "A"}, FILE)


def test_swapped_names_are_refused_with_both_lists():
    with pytest.raises(CategoryError) as caught:
        require_same_classes(THEIRS, {2: "A", 1: "B", 10: "C"}, FILE)
    assert "theirs.pth: was trained on the categories 1 'A', 2 'B', 10 'C'; the data has 1 'B', 2 'A', 10 'C'" in str(
        caught.value
    )
    assert "1, 2 mean another class" in str(caught.value)


def test_data_of_fewer_categories_is_no_other_data():
    require_same_classes(THEIRS, {1: "A"}, FILE)
    require_same_classes(THEIRS, {1: "A", 7: "D"}, FILE)


class Tables(nn.Module):
    """A network with tables by class, one of them under two names."""

    def __init__(self, value):
        super().__init__()
        self.class_embed = nn.ModuleList([nn.Linear(3, 4)])
        self.again = nn.ModuleDict({"class_embed": self.class_embed})
        self.enc_out_class_embed = nn.Linear(3, 4)
        self.label_enc = nn.Embedding(5, 3)
        self.other = nn.Linear(4, 4)
        for parameter in self.parameters():
            nn.init.constant_(parameter, value)


def test_rows_of_other_classes_start_anew_and_that_is_told():
    model, theirs = Tables(1.0), Tables(2.0)
    fit = load_what_fits(model, theirs.state_dict(), FILE, {1: ("A", "B"), 3: (None, "C"), 99: ("D", None)})
    for name, tensor in model.state_dict().items():
        expected = torch.full_like(tensor, 2.0)
        if "other" not in name:
            expected[[1, 3]] = 1.0
        assert torch.equal(tensor, expected), name
    assert str(fit).endswith(
        "rows of other classes left as initialised in 7 tables: 1 (A -> B), 3 (none -> C), 99 (D -> none)"
    )


def test_without_other_classes_every_row_is_taken():
    model, theirs = Tables(1.0), Tables(2.0)
    fit = load_what_fits(model, theirs.state_dict(), FILE)
    assert all((tensor == 2.0).all() for tensor in model.state_dict().values())
    assert "rows of other classes" not in str(fit)
