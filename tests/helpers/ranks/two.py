"""Run twice by test_two_ranks.py: what two ranks say to each other in a step, and what each makes of it."""

import hashlib
import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import main
from engine import accumulate, train_one_epoch
from tests.helpers.networks import tiny_dino
from tests.helpers.networks.toy import CPU, Plus, Toy, batch_of, is_finite, toy_learner
from util.config.load import load_config
from util.detection.batch import Window
from util.distributed.collectives import StepRequests, distribute, gather_objects, plan_window, process_group
from util.runlog.class_skill import FocalSettings
from util.runlog.run_log import RunLog
from util.runlog.training_log import TrainingLog
from util.training.run_folder import SaveClock
from util.training.run_state import build_state

COUNTS = (2, 0, 1, 3, 1, 0)
FORWARD = "DistributedDataParallel.forward"
COLLECTIVE = "c10d::"


def said_in(work):
    """Forward passes and collectives of a piece of work in their order: those of DDP too, which no Python sees."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    events = [e for e in seen.events() if e.name == FORWARD or e.name.startswith(COLLECTIVE)]
    return [event.name for event in sorted(events, key=lambda e: e.time_range.start)]


def fingerprint(model):
    """Equal for equal weights only."""
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def plans(process):
    """A window with boxes on rank 0 alone, and one for each request of a single rank."""
    mine = [(3, 2), (0, 0)][process.rank]
    requests = [
        StepRequests(),
        StepRequests(save=process.rank == 1),
        StepRequests(stop=process.rank == 0),
        StepRequests(save=True, stop=True),
    ]
    return [asdict(plan_window(*mine, CPU, request)) for request in requests]


def conversation(process):
    """What is said in six windows of three batches, with the callbacks of main.py and a row after the fifth."""
    config = load_config(tiny_dino.CONFIG, tiny_dino.OPTIONS)
    learner = toy_learner(Toy())
    state = build_state(config, {1: "a", 2: "b", 3: "c"}, 6, learner.model, CPU, process.world_size)
    mute, clock = RunLog(None), SaveClock(0.0)
    run = main.Run(Path(), config, {}, state, learner.criterion, nn.Identity(), "ema", mute, process, CPU, clock)
    log = TrainingLog(mute, 5, 1000, CPU, process, [0], FocalSettings(0.25, 2.0, 5))
    log.start_epoch(0)
    learner = replace(learner, model=distribute(state.model, process), optimizer=state.optimizer)
    batches = [batch_of([count]) for count in COUNTS[process.rank :: 2]]
    take_a_window = partial(
        train_one_epoch,
        learner,
        accum_steps=3,
        before_step=partial(main.schedule, run, log),
        after_step=partial(main.follow, run, log),
    )
    return [said_in(lambda: take_a_window(loader=log.watch(batches))) for _ in range(6)]


def bad_luck(process):
    """Four windows of two batches: a loss is infinite on rank 1 in the second, NaN on rank 0 in the third."""
    model = Toy()
    learner = toy_learner(distribute(model, process))
    batches = [[batch_of([1]), batch_of([2, 0])], [batch_of([2, 3]), batch_of([0])]][process.rank]
    told = [{"weights": fingerprint(model)}]

    def after_step(step):
        has_gradients = any(p.grad is not None for p in model.parameters())
        told.append({"is_taken": step.is_taken, "is_finite": is_finite(step), "has_gradients": has_gradients})
        told[-1]["weights"] = fingerprint(model)

    for ours, theirs in (0.0, 0.0), (0.0, torch.inf), (torch.nan, 0.0), (0.0, 0.0):
        spoiled = replace(learner, criterion=Plus([ours, theirs][process.rank]))
        said = said_in(
            partial(train_one_epoch, spoiled, batches, accum_steps=2, before_step=StepRequests, after_step=after_step)
        )
        told[-1]["said"] = said
    return told


def dropped(process):
    """Gradients of a window of a batch on each rank, with dropout."""
    model, criterion, _ = tiny_dino.build("dropout=0.1")
    learner = replace(tiny_dino.learner(model, criterion), model=distribute(model.train(), process))
    window = Window([tiny_dino.cut(COUNTS[:4], 2)[process.rank]])
    accumulate(learner, window, plan_window(window.num_boxes, window.most_boxes, CPU))
    return tiny_dino.gradients(model)


def work(folder):
    with process_group("cpu") as process:
        assert gather_objects(process.rank) == [0, 1]
        result = {
            "plans": plans(process),
            "conversation": conversation(process),
            "bad luck": bad_luck(process),
        }
        (folder / f"rank{process.rank}.json").write_text(json.dumps(result))
        torch.save(dropped(process), folder / f"rank{process.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
