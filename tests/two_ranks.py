"""Run twice by tests/test_engine.py: a step over two ranks; rank 0 writes what came of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import tiny_dino
import torch
from torch.nn.parallel import DistributedDataParallel

from engine import accumulate
from util.batch import Window
from util.distributed import count_window, gather_objects, ranks, sum_over_ranks


def run_window(here, model, criterion, batches):
    """Losses averaged over ranks, as the log has them, and gradients as the optimizer sees them."""
    distributed = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    learner = replace(tiny_dino.learner(model, criterion), model=distributed.train())
    losses = accumulate(learner, Window(batches))
    means = {name: sum_over_ranks(value) / here.world_size for name, value in losses.items()}
    return means, tiny_dino.gradients(model)


def main(folder, cases):
    with ranks("cpu") as here:
        assert here.world_size == 2
        counts = count_window(*[(3, 2), (0, 0)][here.rank], tiny_dino.CPU)
        assert (counts.num_boxes, counts.most_boxes) == (1.5, 2)
        assert gather_objects(here.rank) == [0, 1]
        for name, boxes in cases.items():
            model, criterion, _ = tiny_dino.build()
            mine = range(here.rank, len(boxes), 2)
            batches = [tiny_dino.batch([i], boxes) for i in mine]
            if len(batches) < (len(boxes) + 1) // 2:  # this rank ran out of images and keeps step with a ghost
                batches.append(tiny_dino.batch([0], boxes, is_ghost=True))
            losses, grads = run_window(here, model, criterion, batches)
            if here.is_main:
                tiny_dino.write(folder / f"{name}.pt", losses, grads)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
