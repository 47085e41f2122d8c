from pathlib import Path

import pytest
import torch
from torch import nn

from models import build_model
from tests.helpers.golden.model import filled
from tests.helpers.training import CONFIG
from util.base.errors import UserError
from util.config.load import load_config
from util.training.checkpoints.checkpoint import CheckpointError
from util.training.checkpoints.weights import Fit, load_strictly, load_what_fits

FILE = Path("theirs.pth")


def dino(*options):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, options))[0]


def test_strict_loading_of_another_model_names_keys_and_shapes():
    ours = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    theirs = {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(2), "c.weight": torch.zeros(1)}
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(ours, theirs, FILE)
    text = str(caught.value)
    assert text.startswith("theirs.pth: is a checkpoint of another model: 2 missing: b.bias, b.weight")
    assert "1 unexpected: c.weight" in text
    assert "1 of another shape: a.weight [3, 2] instead of [2, 2]" in text
    assert "--pretrain_model_path" in text
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


def test_strict_loading_takes_everything():
    ours, theirs = dino(), dino()
    nn.init.constant_(theirs.transformer.tgt_embed.weight, 3.0)
    load_strictly(ours, theirs.state_dict(), FILE)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_coco_checkpoint_gives_all_but_its_classes_and_the_rows_of_the_best_queries():
    theirs = dino("num_classes=91", "dn_labelbook_size=91", "num_queries=90")
    torch.manual_seed(9)
    ours = dino("restrict_to_categories=False", "num_queries=50")
    untouched = {k: v.clone() for k, v in ours.state_dict().items()}
    weights = {k: v + 1 for k, v in theirs.state_dict().items()}
    fit = load_what_fits(ours, weights, FILE)
    assert (fit.missing, fit.unexpected) == ([], [])
    by_class = [k for k in weights if any(t in k for t in ("class_embed", "label_enc"))]
    assert {line.split(" (")[0] for line in fit.adapted} == {*by_class, "transformer.tgt_embed.weight"}
    assert "label_enc.weight (92 x 64 -> 5 x 64): new" in fit.adapted
    assert "class_embed.0.bias (91 -> 4): new" in fit.adapted
    assert "transformer.tgt_embed.weight (90 x 64 -> 50 x 64): first 50 rows" in fit.adapted
    now = ours.state_dict()
    assert all(torch.equal(now[k], untouched[k]) for k in by_class)
    assert torch.equal(now["transformer.tgt_embed.weight"], weights["transformer.tgt_embed.weight"][:50])
    assert all(torch.equal(now[k], weights[k]) for k in fit.loaded)
    assert len(fit.loaded) + len(fit.adapted) == len(now)


def test_more_queries_than_the_checkpoint_has_keep_their_start_beyond_it():
    theirs, ours = dino("num_queries=20", "num_select=20"), dino()
    start = ours.transformer.tgt_embed.weight.detach().clone()
    load_what_fits(ours, {k: v + 1 for k, v in theirs.state_dict().items()}, FILE)
    table = ours.transformer.tgt_embed.weight
    assert torch.equal(table[20:], start[20:])
    assert not torch.equal(table[:20], start[:20])


def test_a_tensor_whose_rows_mean_something_else_starts_anew():
    theirs, ours = dino("enc_n_points=2", "dim_feedforward=64"), dino()
    start = {k: v.clone() for k, v in ours.state_dict().items()}
    fit = load_what_fits(ours, {k: v + 1 for k, v in theirs.state_dict().items()}, FILE)
    adapted = {line.split(" (")[0] for line in fit.adapted}
    assert "transformer.encoder.layers.0.self_attn.sampling_offsets.bias" in adapted
    assert "transformer.encoder.layers.0.linear1.bias" in adapted
    assert all(line.endswith(": new") for line in fit.adapted)
    assert all(torch.equal(ours.state_dict()[k], start[k]) for k in adapted)


def test_the_report_says_how_many_and_which():
    fit = Fit(["a"] * 7, ["t (9 -> 4): new"], [f"m{i}" for i in range(5)], [])
    assert str(fit) == (
        "loaded 7; 1 adapted: t (9 -> 4): new; 5 missing, left as initialised: m0, m1, m2, ...; 0 unexpected, left out"
    )


def test_a_checkpoint_of_which_less_than_half_fits_is_refused():
    with pytest.raises(CheckpointError, match=r"theirs\.pth: only \d+ of the model's \d+ tensors fit"):
        load_what_fits(dino(), dino("hidden_dim=32").state_dict(), FILE)
    assert issubclass(CheckpointError, UserError)


@pytest.mark.slow
def test_the_official_model_surgery_from_91_classes_and_900_queries():
    theirs, _, _ = filled("num_classes=91", "dn_labelbook_size=91", dtype=torch.float32)
    ours, _, _ = filled("num_queries=300", dtype=torch.float32)
    fit = load_what_fits(ours, theirs.state_dict(), FILE)
    assert len(fit.loaded) == 626 - 2 * 12 - 2 - 2
    assert "transformer.tgt_embed.weight (900 x 256 -> 300 x 256): first 300 rows" in fit.adapted
