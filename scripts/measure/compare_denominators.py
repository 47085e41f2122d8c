"""What other denominators would do to the gradient: python scripts/measure/compare_denominators.py --data_path DIR.

Only the annotations are needed. `docs/accumulation.md` explains the rule and holds the tables for TBX11K.
"""

import argparse
import re
import shlex
import sys
from dataclasses import dataclass
from itertools import product
from math import ceil
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from util.distributed.exit_codes import run_program, start_as_tool

if __name__ == "__main__":
    start_as_tool()

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets.annotations.layout import TBX11K
from datasets.annotations.split import Split, load_split
from datasets.annotations.tbx11k import find_split
from datasets.dataset import load_target
from datasets.sampling.orders import epoch_order
from models import build_model
from util.base.console import Progress, echo
from util.base.errors import UserError
from util.base.seed import derive_generator, derive_seed, seed_everything
from util.config.command_line import Parser, add_data_argument, hide_aliases
from util.config.load import load_config
from util.detection.batch import Target
from util.detection.boxes import xyxy_to_cxcywh

TRUE = "one denominator"
MEAN = "mean of micro-batches"
SUM = "undivided sum"
CLAMP = "floor per rank"
CUTS = ("1x2x1", "1x1x2", "1x8x1", "2x4x1", "1x2x4")
CONFIG = Path(__file__).resolve().parents[2] / "config/DINO/DINO_tiny_phantom.py"
SIZES = ["hidden_dim=32", "dim_feedforward=32", "nheads=2", "enc_n_points=2", "dec_n_points=2"]
OPTIONS = [*SIZES, "num_queries=12", "num_select=12"]
SIDE = 64  # pixels of the random images
PRIORS = (0.01, 0.5)  # scores of all classes: as DINO starts; so high that an empty image pulls like one with a box
PART_1 = """Weights: all steps of the epoch. A step is batch_size x accumulation x ranks.
Factors on the loss terms of micro-batches relative to one denominator: median, percentiles, range."""
PART_2 = """Gradients: the first steps with a box, relative to one denominator. A small untrained DINO whose classes all
start at the given score; random images, real boxes. At 0.01 empty images hardly pull; at 0.5 as hard as the others."""

Network = tuple[nn.Module, nn.Module]  # and its loss


@dataclass(frozen=True)
class Cut:
    """How the images of an optimizer step are cut."""

    batch: int  # images per micro-batch
    accumulation: int  # micro-batches per rank
    ranks: int

    @property
    def total(self) -> int:
        """Images of a step."""
        return self.batch * self.accumulation * self.ranks

    @property
    def ways(self) -> tuple[str, ...]:
        """The wrong ways that are a case of their own here."""
        return (MEAN, *([SUM] if self.accumulation > 1 else []), *([CLAMP] if self.ranks > 1 else []))

    @classmethod
    def read(cls, text: str) -> "Cut":
        """From a text such as 1x8x2."""
        if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers from 1 on, such as 1x8x2")
        return cls(*map(int, found.groups()))

    def __str__(self) -> str:
        return f"{self.batch} x {self.accumulation} x {self.ranks}"

    def micro_batches(self, order: list[int]) -> list[list[list[int]]]:
        """Per step of an epoch its micro-batches, each a list of images. The last step may be short."""
        steps = [order[i : i + self.total] for i in range(0, len(order), self.total)]
        return [[step[i : i + self.batch] for i in range(0, len(step), self.batch)] for step in steps]


def weights(boxes: NDArray[np.int64], ranks: int) -> dict[str, NDArray[np.float64]]:
    """By way the factors [M] on the undivided loss of the micro-batches of a step, from their boxes [M].

    Gradients are averaged over ranks, so that every factor holds 1 / ranks. A short last step takes fewer rounds.
    """
    own = np.maximum(1, boxes)
    total = int(boxes.sum())
    return {
        TRUE: np.full(len(boxes), 1 / max(1, total)),  # max(1, total) / ranks, under the average over ranks
        MEAN: 1 / (own * ranks * ceil(len(boxes) / ranks)),
        SUM: 1 / (own * ranks),
        CLAMP: np.full(len(boxes), 1 / (ranks * max(1, total / ranks))),
    }


def tell_weights(counts: NDArray[np.int64], order: list[int], cuts: list[Cut]) -> str:
    """Part 1: a table over all steps of an epoch, with nothing but box counts."""
    rows = []
    for cut in cuts:
        steps = [np.array([counts[m].sum() for m in step]) for step in cut.micro_batches(order)]
        boxes = np.concatenate(steps)
        total = np.concatenate([np.full(len(s), s.sum()) for s in steps])
        by_way = [weights(s, cut.ranks) for s in steps]
        for way in cut.ways:
            factors = [w[way] / w[TRUE] for w in by_way]
            wrong = np.mean([not np.allclose(f, 1) for f in factors])
            flat = np.concatenate(factors)
            cells = (*spread(flat[boxes > 0]), *spread(flat[(boxes == 0) & (total > 0)]), spread(flat[total == 0])[0])
            rows.append([str(cut), way, f"{wrong:.1%}", *cells])
    more = ("5 % to 95 %", "range")
    return table(["step", "way", "wrong", "with boxes", *more, "empty beside boxes", *more, "empty step"], rows)


def spread(values: NDArray[np.float64]) -> tuple[str, str, str]:
    """Median, 5th to 95th percentile, smallest to largest; a dash where there is nothing."""
    if not len(values):
        return ("-",) * 3
    low, p5, median, p95, high = (f"{v:.3g}" for v in np.percentile(values, [0, 5, 50, 95, 100]))
    return median, f"{p5} to {p95}", f"{low} to {high}"


def build_network(prior: float, seed: int, category_ids: tuple[int, ...]) -> Network:
    """A small untrained DINO in float64 whose classes all score about `prior`, and its loss."""
    seed_everything(seed)
    model, criterion, _ = build_model(load_config(CONFIG, OPTIONS), category_ids)
    for head in (*model.class_embed, model.transformer.enc_out_class_embed):
        nn.init.constant_(head.bias, float(np.log(prior / (1 - prior))))
    return model.double().train(), criterion


def targets_of(split: Split, seed: int) -> list[Target]:
    """What training would see in epoch 0 without augmentation: boxes [n, 4] cxcywh in [0, 1], labels, a noise seed."""
    found = []
    for i in range(split.num_images):
        target = load_target(split, i)
        size = target["orig_size"].flip(0).repeat(2)  # w, h, w, h
        noise_seed = torch.tensor(derive_seed(seed, "denoising", 0, int(target["image_id"])))
        found.append({**target, "boxes": (xyxy_to_cxcywh(target["boxes"]) / size).double(), "noise_seed": noise_seed})
    return found


def undivided_gradient(network: Network, targets: list[Target], most_boxes: int, seed: int) -> Tensor:
    """[P]: the gradient of a micro-batch at denominator 1. Its images are noise that follows from (seed, image id)."""
    draws = [derive_generator(seed, "pixels", int(t["image_id"])) for t in targets]
    images = torch.stack([torch.randn(3, SIDE, SIDE, generator=g, dtype=torch.float64) for g in draws])
    model, criterion = network
    model.zero_grad()
    outputs = model(images, torch.zeros_like(images[:, 0], dtype=torch.bool), targets, most_boxes)
    criterion(outputs, targets, 1.0)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def compare(gradients: Tensor, boxes: NDArray[np.int64], ranks: int) -> dict[str, tuple[float, float]]:
    """By way |g| / |g true| and the cosine between them, from the undivided gradients [M, P] of a step."""
    sums = {way: torch.from_numpy(w) @ gradients for way, w in weights(boxes, ranks).items()}
    true = sums[TRUE]
    cosine = nn.functional.cosine_similarity
    return {way: ((g.norm() / true.norm()).item(), cosine(g, true, dim=0).item()) for way, g in sums.items()}


def measure(network: Network, step: list[list[Target]], cuts: list[Cut], seed: int) -> list[dict]:
    """What `compare` says of a step, for cuts that share its micro-batches and differ in ranks only."""
    boxes = [[len(t["labels"]) for t in m] for m in step]
    gradients = torch.stack([undivided_gradient(network, m, max(map(max, boxes)), seed) for m in step])
    return [compare(gradients, np.array([sum(b) for b in boxes]), cut.ranks) for cut in cuts]


def tell_gradients(
    networks: dict[float, Network], targets: list[Target], order: list[int], cuts: list[Cut], limit: int, seed: int
) -> str:
    """Part 2: a table of gradient norms and directions over the first `limit` steps with a box."""
    has_box = np.array([len(t["labels"]) > 0 for t in targets])
    alike = {(cut.batch, cut.total): [c for c in cuts if (c.batch, c.total) == (cut.batch, cut.total)] for cut in cuts}
    progress = Progress("gradients", len(networks) * len(alike) * limit, "steps")
    rows = []
    for (prior, network), group in product(networks.items(), alike.values()):
        steps = group[0].micro_batches(order)
        used = [i for i, step in enumerate(steps) if has_box[np.concatenate(step)].any()][:limit]
        found = []
        for i in used:
            found.append(measure(network, [[targets[j] for j in m] for m in steps[i]], group, seed))
            progress.advance()
        numbers = (str(len(used)), str(used[-1] + 1 - len(used)))
        for cut, results in zip(group, zip(*found, strict=True), strict=True):
            for way in cut.ways:
                norm, cosine = np.array([r[way] for r in results]).T
                rows.append([str(prior), str(cut), way, *spread(norm), *spread(cosine)[::2], *numbers])
    progress.close()
    header = ["score", "step", "way", "norm", "5 % to 95 %", "range", "cosine", "range", "steps", "empty, left out"]
    return table(header, rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * w for w in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def main() -> None:
    """Print both tables."""
    args = parse_args()
    report(args.data_path, args.list, args.step_sizes, args.num_steps, args.seed)
    echo("\nMade by: " + shlex.join(["python", "scripts/measure/compare_denominators.py", *sys.argv[1:]]))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add_data_argument(parser)
    add("--list", default="TBX11K_train", help="split (default: TBX11K_train)")
    add("--seed", type=int, default=0, help="of the order, the network and the random images (default: 0)")
    measured = "steps with a box to measure gradients of; 0: none (default: 60)"
    hide_aliases(add("--num_steps", "--windows", type=int, default=60, help=measured))
    cuts = [Cut.read(text) for text in CUTS]
    told = f"batch_size x accumulation x ranks (default: {' '.join(CUTS)})"
    hide_aliases(add("--step_sizes", "--batch", type=Cut.read, nargs="+", default=cuts, metavar="BxAxR", help=told))
    args = parser.parse_args()
    if args.num_steps < 0 or args.seed < 0:
        parser.error(f"--num_steps and --seed must be at least 0, got {args.num_steps} and {args.seed}")
    return args


def report(data_path: Path, list_name: str, cuts: list[Cut], limit: int, seed: int) -> None:
    """Print what each way would make of epoch 0 of a split.

    Raises:
        UserError: the split cannot be read, or gradients are wanted and it has no box.
    """
    file = data_path / TBX11K.annotations.format(list_name)
    split = load_split(data_path, file if file.is_file() else find_split(data_path, list_name)[1])  # tells what lacks
    targets = targets_of(split, seed)
    order = epoch_order(split.num_images, seed, epoch=0).tolist()
    counts = np.array([len(t["labels"]) for t in targets])
    if limit and not counts.any():
        raise UserError(f"{file}: no image has a box, so no gradient can be compared; choose another --list")
    echo(f"{split.name}: {len(counts)} images, {counts.sum()} boxes, {np.mean(counts == 0):.1%} of images without one")
    echo(f"\n{PART_1}\n\n{tell_weights(counts, order, cuts)}")
    if limit:
        echo(f"\n{PART_2}\n")
        networks = {prior: build_network(prior, seed, split.category_ids) for prior in PRIORS}
        echo("\n" + tell_gradients(networks, targets, order, cuts, limit, seed))


if __name__ == "__main__":
    run_program(main)
