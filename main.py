"""Train or evaluate DINO.

    python main.py --config_file CONFIG --data_path DIR --output_dir logs/RUN
    torchrun --nproc_per_node=2 main.py ...

The command line says where and what, the config says how.
"""

from __future__ import annotations

from util.base.launcher import Ranks, is_under_torchrun
from util.base.processes import stop_with_launcher
from util.distributed.exit_codes import FAILED, REQUEUE, end_silently_on_ctrl_c, run_program
from util.distributed.preemption import STOP, Preempted

if __name__ == "__main__":  # before torch is imported, which takes seconds
    STOP.listen()  # a signal meanwhile must not be lost
    end_silently_on_ctrl_c()
    if is_under_torchrun():
        stop_with_launcher()

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.annotations.facts import source_of, split_facts
from datasets.annotations.split import Split
from datasets.annotations.tbx11k import image_kinds
from datasets.build import build_eval_loader, build_split, build_splits, build_train_loader, crowded_images, describe
from datasets.checks.image_files import remember
from engine import Learner, Step, predict, train_one_epoch
from models import build_model, choose_attention, speed_up
from models.backbones.weights import load_backbone_weights
from models.inference.load import build_filled
from util.base.console import Progress
from util.base.errors import ToldElsewhere
from util.base.seed import seed_everything
from util.config.command_line import parse_arguments
from util.config.load import load_config
from util.config.schema import Config
from util.distributed.collectives import (
    Wishes,
    choose_device_type,
    distribute,
    gather_objects,
    ranks,
    require_same,
    together,
    wait_for_all,
)
from util.doctor.checkup import consult
from util.metrics.report.evaluation import evaluate_as_configured
from util.metrics.tables import merge_detections
from util.runlog.run_log import RunLog
from util.runlog.training_log import TrainingLog, build_training_log
from util.training import nonfinite
from util.training.checkpoints import checkpoint
from util.training.checkpoints.schema import is_count
from util.training.checkpoints.start import load_judged
from util.training.evaluation_folder import hold_folder
from util.training.optimizer import learning_rates
from util.training.run_folder import SaveClock, open_log, save_config, sole_training
from util.training.run_state import RunState, build_state, set_rates

BEST_METRIC = "all/per_class/AP"
STOP_FILE = "stop"


def main(arguments: list[str] | None = None) -> None:
    """Train or evaluate on this rank, as the command line says.

    Whatever the end, the last checkpoint is whole and the same command goes on from it.
    """
    args = parse_arguments(arguments)
    device_type = choose_device_type(args.device)
    with ranks(device_type) as here, ExitStack() as held:
        device = torch.device(device_type, here.local_rank) if device_type == "cuda" else torch.device("cpu")
        (evaluate if args.eval else train)(args, here, device, held)


@dataclass(frozen=True)
class Run:
    """What a command works with, once everything is checked and loaded."""

    folder: Path
    config: Config
    splits: dict[str, Split]
    state: RunState
    criterion: nn.Module
    postprocess: nn.Module
    weights: str  # which weights are judged: "ema" or "model"
    log: RunLog
    here: Ranks
    device: torch.device
    clock: SaveClock
    named: dict[str, str] = field(default_factory=dict)  # the checkpoint, where evaluating it is all there is to do


def train(args: argparse.Namespace, here: Ranks, device: torch.device, held: ExitStack) -> None:
    """Train from the chosen start to the last epoch; judge after each. The run folder is held meanwhile."""
    together(partial(held.enter_context, sole_training(args)))
    run = together(partial(prepare_training, args, here, device))
    state = run.state
    require_same(
        (state.epoch, state.window, state.step), f"{run.folder}: checkpoints of different (epoch, window, step)"
    )
    config = run.config
    optim = run.config.optim
    loader, sampler = build_train_loader(
        run.splits["train"],
        config.data,
        batch_size=optim.batch_size,
        accumulation=optim.gradient_accumulation_steps,
        seed=config.runtime.seed,
        rank=here.rank,
        world_size=here.world_size,
    )
    max_norm = optim.clip_max_norm or float("inf")
    run.log.say(f"an epoch: {sampler.account}")
    model = distribute(state.model, here)
    learner = Learner(model, run.criterion, state.optimizer, state.precision, device, max_norm, state.denominator)
    ids = run.splits["train"].category_ids
    is_verbose = args.verbose_losses
    training_log = build_training_log(run.log, config, sampler.num_windows, device, here, ids, is_verbose)
    if optim.warmup_steps >= optim.epochs * sampler.num_windows:
        run.log.say(f"warning: warmup_steps {optim.warmup_steps} outlasts the training; lr is never reached")
    if here.is_main:
        STOP.watch(run.folder / STOP_FILE)
    finish_epoch(run)  # a run that was cut off while it was judged
    while state.epoch < optim.epochs:
        sampler.set_epoch(state.epoch, state.window)
        training_log.start_epoch(state.epoch, state.window, state.collected)
        train_one_epoch(
            learner,
            training_log.watch(loader),
            accum_steps=optim.gradient_accumulation_steps,
            before_step=partial(schedule, run, training_log),
            after_step=partial(follow, run, training_log),
        )
        training_log.finish_epoch(state.step)
        state.epoch = state.epoch + 1
        state.window = 0
        state.collected = []
        keep(run)
        finish_epoch(run)
        consult(run.log, here, config.runtime.on_failing)
    STOP.settle()
    run.log.say(f"training is finished: {state.epoch} epochs, {state.step} optimizer steps; {state.told_best}")


def evaluate(args: argparse.Namespace, here: Ranks, device: torch.device, held: ExitStack) -> None:
    """Evaluate one checkpoint: that of --resume, or else the best of the run folder; hold the folder of the results."""
    run = together(partial(prepare_evaluation, args, here, device, held))
    judge(run, is_final=True, operating_point=run.state.operating_point)


def prepare_training(args: argparse.Namespace, here: Ranks, device: torch.device) -> Run:
    """Check and load everything; only then is something written."""
    config = load_config(args.config_file, args.options)
    start = checkpoint.choose_start(args.output_dir, args.resume, args.pretrain_model_path)
    unused = checkpoint.unused(start, args.resume, args.pretrain_model_path)
    num_classes = config.model.num_classes
    is_main = here.is_main  # one rank looks at the images for all
    checked = build_splits(
        config.data, args.data_path, num_classes=num_classes, opens_images=is_main, run=args.output_dir
    )
    splits = checked.splits
    seed_everything(config.runtime.seed)
    model, criterion, postprocess = build_model(config, splits["train"].category_ids)
    train_split = splits["train"]
    state = build_state(config, train_split.names, train_split.num_images, model.to(device), device, here.world_size)
    state.attention = choose_attention(config.speed.attn_backend, device.type)[0]
    said = f"{speed_up([state.model, state.average.module], config.speed, device)}\n{begin(state, start, config)}"
    log = open_log(args.output_dir, config, here, device, is_training=True)
    if is_main:
        remember(args.output_dir, checked.files)
    if start.kind == "own":
        log.go_on_rows(state.rows)
    else:
        log.begin_rows()
    if start.kind == "resume" and here.is_main and not checkpoint.take_best_along(start.path, args.output_dir):
        state.best = {}  # what is not there cannot be the best
    for which, split in splits.items():
        log.say(f"{which}: {describe(split)}")
    for line in (*unused, *checked.warnings):
        log.say(f"warning: {line}")
    if crowded := crowded_images(splits["train"], config.model.num_queries):
        log.say(f"warning: {crowded}")
    log.say(said)
    if state.epoch < config.optim.epochs:  # a finished run that is started again leaves no trace in its rows
        log.start(**state.started, **{which: split_facts(split) for which, split in splits.items()})
    weights = "ema" if state.average.is_copy else "model"
    clock = SaveClock(config.runtime.checkpoint_every_minutes, step=state.step if start.kind == "own" else -1)
    return Run(args.output_dir, config, splits, state, criterion, postprocess, weights, log, here, device, clock)


def prepare_evaluation(args: argparse.Namespace, here: Ranks, device: torch.device, held: ExitStack) -> Run:
    """The same for a checkpoint to evaluate, whose results go into a folder of their own."""
    path, content, config = load_judged(args)
    num_classes = config.model.num_classes
    split = build_split(config.data, args.data_path, "val", num_classes=num_classes, opens_images=here.is_main)
    model, criterion, postprocess = build_filled(config, split.names, content, path)
    state = build_state(config, split.names, split.num_images, model.to(device), device, here.world_size)
    state.epoch, state.step = (content[name] if is_count(content.get(name)) else 0 for name in ("epoch", "step"))
    state.operating_point = content.get("operating_point") or {}
    computed = speed_up([state.model, state.average.module], config.speed, device)
    weights = "ema" if content.get("ema") or content.get("ema_model") else "model"
    named = {"checkpoint": str(path)}
    clock = SaveClock(0.0)
    facts = {**source_of(split, config), "step": state.step, "weights": weights, **named}
    folder = hold_folder(args.output_dir, split.ground_truth(), facts, held)
    log = open_log(folder, config, here, device, is_training=False)
    log.say(f"{computed}\nval: {describe(split)}\nevaluating {path}, epoch {state.epoch}; results: {folder}")
    return Run(folder, config, {"val": split}, state, criterion, postprocess, weights, log, here, device, clock, named)


def begin(state: RunState, start: checkpoint.Start, config: Config) -> str:
    """Bring the state to its start; what to say of it."""
    if start.kind in ("own", "resume"):
        changes = state.restore(start.path)
        return f"start: {start.reason}, at epoch {state.epoch}, step {state.step}{changes}"
    if start.kind == "pretrain":
        said = state.take_over(start.path)
    else:
        said = load_backbone_weights(state.model.backbone[0], config.model.backbone, config.model.backbone_weights)
    state.average.copy_from(state.model)
    return f"start: {start.reason}; {said}"


def schedule(run: Run, log: TrainingLog) -> Wishes:
    """Set the learning rate of the step to come, and say what this rank wishes to happen after it."""
    set_rates(run.state, run.config.optim, log.num_windows)
    return Wishes(save=run.here.is_main and run.clock.is_due, stop=STOP.is_made)


def follow(run: Run, log: TrainingLog, step: Step) -> None:
    """Take note of a step: average the weights, log the losses, save and stop where the ranks have agreed to."""
    state = run.state
    rates = learning_rates(run.state.optimizer)
    if not step.is_taken:
        require_a_way_on(run, log, step)
    state.step = state.step + 1
    state.window = state.window + 1
    if step.is_taken:
        state.average.update(state.model, state.step)
        log.add(step.window, step.plan.num_boxes, step.total, step.counted, step=state.step, rates=rates)
    else:
        log.leave_out(step=state.step, rates=rates)
    if step.plan.saves:
        state.collected = log.state()
        keep(run)
    if step.plan.stops:
        log.close()
        leave(run, f"in epoch {state.epoch} after step {state.step}; the same command goes on from there")


def require_a_way_on(run: Run, log: TrainingLog, step: Step) -> None:
    """Go on after a step that was not taken, or stop; all ranks come here together.

    Raises:
        FloatingPointError: with the step's images, kept in the run folder with a checkpoint that repeats it.
    """
    state = run.state
    allowed = run.config.runtime.skip_nonfinite_steps
    accounts = nonfinite.examine(step.window, step.losses, run.splits["train"].files_by_id, state.precision)
    if accounts is None:
        return
    position = {"epoch": state.epoch, "window": state.window, "step": state.step, "seed": run.config.runtime.seed}
    reason = nonfinite.tell(run.log, position, accounts, step.grad_norm)
    if state.skipped < allowed:
        state.skipped += 1
        run.log.say(f"warning: {reason}. Skipped, {state.skipped} of at most {allowed}")
        return
    state.collected = log.state()
    keep(run, nonfinite.CHECKPOINT)
    wait_for_all()  # a rank that ended now would take the others with it
    if not run.here.is_main:
        raise ToldElsewhere(FAILED)
    again = f"--resume {run.folder / nonfinite.CHECKPOINT} --output_dir logs/NEW repeats it"
    raise FloatingPointError(f"{reason}, and {again}. Older checkpoints are untouched. {nonfinite.MENDS}")


def finish_epoch(run: Run) -> None:
    """After an epoch: judge the weights if it is due and has not been done, keep the best and those kept for good."""
    state = run.state
    if state.window or not state.epoch:
        return
    is_due = state.epoch % run.config.eval.eval_every == 0 or state.epoch == run.config.optim.epochs
    if is_due and state.judged < state.epoch:
        is_final = state.epoch == run.config.optim.epochs
        is_best = state.note(BEST_METRIC, judge(run, is_final=is_final).get(BEST_METRIC))
        if is_best:
            keep(run, checkpoint.BEST_NAME)
        keep(run)
    interval = run.config.runtime.save_checkpoint_interval
    name = f"checkpoint{state.epoch:04d}.pth"
    if interval and state.epoch % interval == 0 and not (run.folder / name).exists():
        keep(run, name)


def keep(run: Run, name: str = checkpoint.OWN_NAME) -> None:
    """Write a checkpoint into the run folder, on the main rank. No collective: that rank alone knows what is best."""
    if not run.here.is_main:
        return
    run.state.rows = run.log.rows_on_disk()
    if name == checkpoint.OWN_NAME and run.clock.moves_on(run.state.step):
        checkpoint.rotate(run.folder, run.config.runtime.keep_last_checkpoints)
    run.state.save(run.folder / name)


def leave(run: Run, after: str) -> None:
    """Stop because somebody asked for it; everything is saved, and the ranks know of each other that they stop."""
    run.log.say(f"asked to stop ({STOP.maker}): stopped {after}. Exit code {REQUEUE}")
    wait_for_all()
    STOP.settle()
    raise Preempted


def judge(run: Run, *, is_final: bool, operating_point: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Predict the split over all ranks; on the main one report, save detections and figures, and return the figures.

    Without an operating point one is chosen on these images, and kept in the state. The final word has intervals.
    """
    state = run.state
    split = run.splits["val"]
    eval_config = run.config.eval
    here = run.here
    loader = build_eval_loader(
        split, run.config.data, batch_size=eval_config.eval_batch_size, rank=here.rank, world_size=here.world_size
    )
    progress = Progress("evaluation", len(loader), "batches", is_shown=here.is_main)
    settings = {"precision": state.precision, "device": run.device, "after_batch": lambda _: progress.advance()}
    part = predict(state.average.module, run.postprocess.to(run.device), STOP.until_made(loader), **settings)
    progress.close()
    parts = gather_objects((part, STOP.is_made))
    if any(is_asked for _, is_asked in parts):
        leave(run, "while evaluating; the same command evaluates anew")
    if not here.is_main:
        return {}
    truth = split.ground_truth()
    found = merge_detections([part for part, _ in parts], truth.images)
    kinds = image_kinds(truth.files)
    evaluation = evaluate_as_configured(truth, found, kinds, run.config, operating_point, has_intervals=is_final)
    state.operating_point = evaluation.operating_point
    if run.named:
        save_config(run.folder, run.config, here)
    position = {"epoch": state.epoch, "step": state.step, "weights": run.weights, **run.named}
    evaluation.tell(run.log, run.folder, source_of(split, run.config), **position)
    return evaluation.numbers


if __name__ == "__main__":
    run_program(main)
