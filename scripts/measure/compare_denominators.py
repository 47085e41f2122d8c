"""Compare the gradients of other loss denominators: python scripts/measure/compare_denominators.py --data_path DIR.

Only the annotations are needed. `docs/accumulation.md` explains the rule and holds the tables for TBX11K.
"""

import argparse
import re
import shlex
import sys
from dataclasses import dataclass
from itertools import product
from math import ceil
from operator import attrgetter
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
from datasets.dataset import load_target
from datasets.sampling.orders import ShuffledOrder
from models import build_model
from util.base.console import Progress, echo
from util.base.errors import UserError
from util.base.seed import derive_generator, derive_seed, seed_everything
from util.config import load_config
from util.config.command_line import Parser, add_data_argument, hide_aliases
from util.detection.batch import Target
from util.detection.boxes import xyxy_to_cxcywh

TRUE = "one denominator"
MEAN = "mean of micro-batches"
SUM = "undivided sum"
CLAMP = "floor per rank"
LAYOUTS = ("1x2x1", "1x1x2", "1x8x1", "2x4x1", "1x2x4")
CONFIG = Path(__file__).resolve().parents[2] / "config/DINO/DINO_tiny_phantom.py"
SIZES = ["hidden_dim=32", "dim_feedforward=32", "nheads=2", "enc_n_points=2", "dec_n_points=2"]
OPTIONS = [*SIZES, "num_queries=12", "num_select=12"]
SIDE = 64  # pixels of the random images
PRIORS = (0.01, 0.5)  # initial class scores: as in DINO; so high that an empty image weighs as much as others
PART_1 = """Weights: all steps of the epoch. A step is batch_size x accumulation x ranks.
Factors on the loss terms of micro-batches relative to one denominator: median, percentiles, range."""
PART_2 = """Gradients: the first steps with a box, relative to one denominator. A small untrained DINO whose classes all
start at the given score; random images, real boxes. At 0.01 empty images hardly weigh; at 0.5 as much as the others."""

Network = tuple[nn.Module, nn.Module]  # and its loss
Networks = dict[float, Network]  # by the class scores at the start


@dataclass(frozen=True)
class StepLayout:
    """Distribution of the images of an optimizer step over micro-batches and ranks."""

    batch: int  # images per micro-batch
    accumulation: int  # micro-batches per rank
    ranks: int

    @property
    def total(self) -> int:
        """Images per step."""
        return self.batch * self.accumulation * self.ranks

    @property
    def denominators(self) -> tuple[str, ...]:
        """The wrong denominators that differ from each other in this layout."""
        return (MEAN, *([SUM] if self.accumulation > 1 else []), *([CLAMP] if self.ranks > 1 else []))

    @classmethod
    def parse(cls, text: str) -> "StepLayout":
        """Parse a text such as 1x8x2."""
        if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers from 1 on, such as 1x8x2")
        return cls(*map(int, found.groups()))

    def __str__(self) -> str:
        return f"{self.batch} x {self.accumulation} x {self.ranks}"

    def micro_batches(self, order: list[int]) -> list[list[list[int]]]:
        """The micro-batches of each step of an epoch, as lists of images; the last step may be short."""
        steps = [order[i : i + self.total] for i in range(0, len(order), self.total)]
        return [[step[i : i + self.batch] for i in range(0, len(step), self.batch)] for step in steps]


def weights(boxes: NDArray[np.int64], ranks: int) -> dict[str, NDArray[np.float64]]:
    """Factors [M] of each denominator on the undivided losses of the micro-batches of a step, from their boxes [M].

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


def weights_table(counts: NDArray[np.int64], order: list[int], layouts: list[StepLayout]) -> str:
    """Part 1: a table over all steps of an epoch, from box counts alone."""
    rows = []
    for layout in layouts:
        steps = [np.array([counts[m].sum() for m in step]) for step in layout.micro_batches(order)]
        boxes = np.concatenate(steps)
        total = np.concatenate([np.full(len(s), s.sum()) for s in steps])
        all_weights = [weights(s, layout.ranks) for s in steps]
        for name in layout.denominators:
            factors = [w[name] / w[TRUE] for w in all_weights]
            wrong = np.mean([not np.allclose(f, 1) for f in factors])
            flat = np.concatenate(factors)
            cells = (*spread(flat[boxes > 0]), *spread(flat[(boxes == 0) & (total > 0)]), spread(flat[total == 0])[0])
            rows.append([str(layout), name, f"{wrong:.1%}", *cells])
    more = ("5 % to 95 %", "range")
    return table(["step", "denominator", "wrong", "with boxes", *more, "empty beside boxes", *more, "empty step"], rows)


def spread(values: NDArray[np.float64]) -> tuple[str, str, str]:
    """Median, 5th to 95th percentile and range; dashes where there are no values."""
    if not len(values):
        return ("-",) * 3
    low, p5, median, p95, high = (f"{v:.3g}" for v in np.percentile(values, [0, 5, 50, 95, 100]))
    return median, f"{p5} to {p95}", f"{low} to {high}"


def build_network(prior: float, seed: int, category_ids: tuple[int, ...]) -> Network:
    """A small untrained DINO in float64 with all class scores near `prior`, and its loss."""
    seed_everything(seed)
    model, criterion, _ = build_model(load_config(CONFIG, OPTIONS), category_ids)
    for head in (*model.class_embed, model.transformer.enc_out_class_embed):
        nn.init.constant_(head.bias, float(np.log(prior / (1 - prior))))
    return model.double().train(), criterion


def targets_of(split: Split, seed: int) -> list[Target]:
    """Targets of epoch 0 without augmentation: boxes [n, 4] cxcywh in [0, 1], labels, noise seed."""
    found = []
    for i in range(split.num_images):
        target = load_target(split, i)
        size = target["orig_size"].flip(0).repeat(2)  # w, h, w, h
        noise_seed = torch.tensor(derive_seed(seed, "denoising", 0, int(target["image_id"])))
        found.append({**target, "boxes": (xyxy_to_cxcywh(target["boxes"]) / size).double(), "noise_seed": noise_seed})
    return found


def undivided_gradient(network: Network, targets: list[Target], most_boxes: int, seed: int) -> Tensor:
    """Gradient [P] of a micro-batch with denominator 1; its images are noise derived from (seed, image id)."""
    draws = [derive_generator(seed, "pixels", int(t["image_id"])) for t in targets]
    images = torch.stack([torch.randn(3, SIDE, SIDE, generator=g, dtype=torch.float64) for g in draws])
    model, criterion = network
    model.zero_grad()
    outputs = model(images, torch.zeros_like(images[:, 0], dtype=torch.bool), targets, most_boxes)
    criterion(outputs, targets, 1.0)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def compare(gradients: Tensor, boxes: NDArray[np.int64], ranks: int) -> dict[str, tuple[float, float]]:
    """|g| / |g true| and their cosine for each denominator, from the undivided gradients [M, P] of a step."""
    sums = {name: torch.from_numpy(w) @ gradients for name, w in weights(boxes, ranks).items()}
    true = sums[TRUE]
    cosine = nn.functional.cosine_similarity
    return {name: ((g.norm() / true.norm()).item(), cosine(g, true, dim=0).item()) for name, g in sums.items()}


def measure(
    network: Network, step: list[list[Target]], layouts: list[StepLayout], seed: int
) -> list[dict[str, tuple[float, float]]]:
    """`compare` for one step and several layouts that share its micro-batches and differ in ranks only."""
    boxes = [[len(t["labels"]) for t in m] for m in step]
    gradients = torch.stack([undivided_gradient(network, m, max(map(max, boxes)), seed) for m in step])
    return [compare(gradients, np.array([sum(b) for b in boxes]), layout.ranks) for layout in layouts]


def gradients_table(
    networks: Networks, targets: list[Target], order: list[int], layouts: list[StepLayout], limit: int, seed: int
) -> str:
    """Part 2: a table of gradient norms and directions over the first `limit` steps with a box."""
    has_box = np.array([len(t["labels"]) > 0 for t in targets])
    key = attrgetter("batch", "total")  # layouts with the same key share their micro-batches
    groups = {key(layout): [other for other in layouts if key(other) == key(layout)] for layout in layouts}
    progress = Progress("gradients", len(networks) * len(groups) * limit, "steps")
    rows = []
    for (prior, network), group in product(networks.items(), groups.values()):
        steps = group[0].micro_batches(order)
        used = [i for i, step in enumerate(steps) if has_box[np.concatenate(step)].any()][:limit]
        found = []
        for i in used:
            found.append(measure(network, [[targets[j] for j in m] for m in steps[i]], group, seed))
            progress.advance()
        numbers = (str(len(used)), str(used[-1] + 1 - len(used)))
        for layout, results in zip(group, zip(*found, strict=True), strict=True):
            for name in layout.denominators:
                norm, cosine = np.array([r[name] for r in results]).T
                rows.append([str(prior), str(layout), name, *spread(norm), *spread(cosine)[::2], *numbers])
    progress.close()
    more = ("5 % to 95 %", "range")
    header = ["score", "step", "denominator", "norm", *more, "cosine", "range", "steps", "empty, skipped"]
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
    layouts = [StepLayout.parse(text) for text in LAYOUTS]
    sizes = f"batch_size x accumulation x ranks (default: {' '.join(LAYOUTS)})"
    option = add(
        "--step_sizes", "--batch", type=StepLayout.parse, nargs="+", default=layouts, metavar="BxAxR", help=sizes
    )
    hide_aliases(option)
    args = parser.parse_args()
    if args.num_steps < 0 or args.seed < 0:
        parser.error(f"--num_steps and --seed must be at least 0, got {args.num_steps} and {args.seed}")
    return args


def report(data_path: Path, list_name: str, layouts: list[StepLayout], limit: int, seed: int) -> None:
    """Print the effect of each denominator on epoch 0 of a split.

    Raises:
        UserError: the split cannot be read, or has no box for the gradients.
    """
    file = data_path / TBX11K.annotations.format(list_name)
    if not file.is_file():
        TBX11K.find_split(data_path, list_name)  # raises the error that explains it
    split = load_split(data_path, file)
    targets = targets_of(split, seed)
    order = ShuffledOrder(split.num_images, seed).of_epoch(0).tolist()
    counts = np.array([len(t["labels"]) for t in targets])
    if limit and not counts.any():
        raise UserError(f"{file}: no image has a box, so no gradient can be compared; choose another --list")
    echo(f"{split.name}: {len(counts)} images, {counts.sum()} boxes, {np.mean(counts == 0):.1%} of images without one")
    echo(f"\n{PART_1}\n\n{weights_table(counts, order, layouts)}")
    if limit:
        echo(f"\n{PART_2}\n")
        networks = {prior: build_network(prior, seed, split.category_ids) for prior in PRIORS}
        echo("\n" + gradients_table(networks, targets, order, layouts, limit, seed))


if __name__ == "__main__":
    run_program(main)
