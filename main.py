"""Train or evaluate DINO.

    python main.py --config_file CONFIG --data_path DIR --output_dir logs/RUN
    torchrun --nproc_per_node=2 main.py ...

The command line says where and what, the config says how.
"""

from __future__ import annotations

from util.base.launcher import ProcessInfo, is_under_torchrun
from util.base.processes import stop_with_launcher
from util.distributed.exit_codes import end_silently_on_ctrl_c, run_program
from util.distributed.preemption import STOP

if __name__ == "__main__":  # before torch is imported, which takes seconds
    STOP.listen()  # a signal meanwhile must not be lost
    end_silently_on_ctrl_c()
    if is_under_torchrun():
        stop_with_launcher()

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch

from datasets.annotations.facts import evaluated_source, split_facts
from datasets.annotations.split import Split
from datasets.annotations.tbx11k import image_kinds
from datasets.build import build_eval_loader, build_splits, build_train_loader, check_split, describe
from datasets.checks.expected_results import EXPECTED_RESULTS
from datasets.checks.image_files import save_image_records
from engine import Learner, Step, predict, train_one_epoch
from models import build_model, build_model_with_weights, check_model, choose_attention, load_backbone_weights, speed_up
from models.dino import DINO
from models.losses.criterion import SetCriterion
from models.postprocess import PostProcess
from util.base.seed import seed_everything
from util.config import flatten, load_config
from util.config.command_line import parse_arguments
from util.config.load import convert_official
from util.config.never_happens import never_happens
from util.distributed import collectives
from util.doctor.checkup import check_progress
from util.runlog.training_log import TrainingLog, build_training_log
from util.training import nonfinite
from util.training.checkpoints.auto_values import fill_from_checkpoint, fill_from_data
from util.training.checkpoints.start import choose_start, load_for_evaluation, unused_warnings
from util.training.checkpoints.weights import kind_of_weights
from util.training.evaluation import evaluate_parts, until_stop_request
from util.training.evaluation_folder import hold_folder
from util.training.optimizer import learning_rates
from util.training.run_folder import RunFolder, exit_for_requeue, hold_run_folder, open_run_folder, start_log
from util.training.run_state import RunState, build_state, load_start, set_rates


def main(arguments: list[str] | None = None) -> None:
    """Train or evaluate on this rank, as the command line says.

    Whatever the end, the last checkpoint is whole and the same command resumes from it.
    """
    args = parse_arguments(arguments)
    if args.from_official:
        convert_official(args.from_official, args.output_config)
        return
    device_type = collectives.choose_device_type(args.device)
    with collectives.process_group(device_type) as process, ExitStack() as locks:
        device = torch.device(device_type, process.local_rank) if device_type == "cuda" else torch.device("cpu")
        if args.eval:
            evaluate(prepare(partial(prepare_evaluation, args, process, device, locks)))
        else:
            train(args, process, device, locks)


@dataclass(frozen=True)
class Run:
    """The parts of a training or an evaluation, checked and loaded."""

    splits: dict[str, Split]
    state: RunState[DINO]
    criterion: SetCriterion
    postprocess: PostProcess
    folder: RunFolder
    device: torch.device


def train(args: argparse.Namespace, process: ProcessInfo, device: torch.device, locks: ExitStack) -> None:
    """Train from the chosen start to the last epoch, and evaluate after each. The run folder is held meanwhile."""
    collectives.run_on_all_ranks(partial(locks.enter_context, hold_run_folder(args)))
    run = prepare(partial(prepare_training, args, process, device))
    state = run.state
    config = run.folder.config
    log = run.folder.log
    collectives.require_same(state.place, f"{args.output_dir}: checkpoints of different (epoch, window, step)")
    optim = config.optim
    loader, sampler = build_train_loader(
        run.splits["train"],
        config.data,
        batch_size=optim.batch_size,
        accumulation=optim.gradient_accumulation_steps,
        seed=config.runtime.seed,
        rank=process.rank,
        world_size=process.world_size,
    )
    log.info(f"an epoch: {sampler.description}")
    model = collectives.distribute(state.model, process)
    max_norm = optim.clip_max_norm or float("inf")
    learner = Learner(model, run.criterion, state.optimizer, state.precision, device, max_norm, state.denominator)
    split = run.splits["train"]
    training_log = build_training_log(
        log, config, sampler.num_windows, device, process, split.category_ids, args.verbose_losses, split.classes
    )
    if optim.warmup_steps >= optim.epochs * sampler.num_windows:
        log.info(f"warning: warmup_steps {optim.warmup_steps} outlasts the training; lr is never reached")
    if process.is_main:
        STOP.watch_file(run.folder.path / "stop")
    after_epoch(run)  # a run that was interrupted in its evaluation
    while state.epoch < optim.epochs:
        sampler.set_epoch(state.epoch, state.window)
        training_log.start_epoch(state.epoch, state.window, state.collected)
        train_one_epoch(
            learner,
            training_log.watch(loader),
            accum_steps=optim.gradient_accumulation_steps,
            before_step=partial(before_step, run, training_log),
            after_step=partial(after_step, run, training_log),
        )
        training_log.finish_epoch(state.step)
        state.finish_epoch()
        run.folder.save_checkpoint(state)
        after_epoch(run)
        check_progress(log, process, config.runtime.on_failing, EXPECTED_RESULTS)
    STOP.ignore_further_signals()
    log.info(f"training is finished: {state.epoch} epochs, {state.step} optimizer steps; {state.best_epoch}")


def prepare(build: Callable[[], Run]) -> Run:
    """Build the parts on all ranks; all read images by the rule of the main one, which alone has opened them."""
    run = collectives.run_on_all_ranks(build)
    rules = collectives.gather_objects({which: split.rules for which, split in run.splits.items()})[0]
    return replace(run, splits={which: replace(split, rules=rules[which]) for which, split in run.splits.items()})


def prepare_training(args: argparse.Namespace, process: ProcessInfo, device: torch.device) -> Run:
    """Check config, start and data, build the parts, load the weights; only then is something written."""
    config = load_config(args.config_file, args.options)
    check_model(config.model)
    start = choose_start(args.output_dir, args.resume, args.pretrain_model_path)
    unused = unused_warnings(start, args.resume, args.pretrain_model_path)
    config, classes = fill_from_checkpoint(config, start.resumed)
    checked = build_splits(
        config.data, args.data_path, num_classes=classes, opens_images=process.is_main, run=args.output_dir
    )
    split = checked.splits["train"]
    config = fill_from_data(config, len(split.names), checked.depth.depth)

    seed_everything(config.runtime.seed)
    network = config.model
    model, criterion, postprocess = build_model(config, split.category_ids, split.classes)
    model.to(device)
    state = build_state(config, split.names, split.num_images, model, device, process.world_size, split.classes)
    state.attention = choose_attention(config.speed.attn_backend, device.type)[0]
    computation = speed_up([state.model, state.average.module], config.speed, device)

    load_backbone = partial(load_backbone_weights, model.backbone[0], network.backbone, network.backbone_weights)
    started = load_start(state, start, load_backbone)
    weights = "ema" if state.average.is_copy else "model"
    folder = open_run_folder(args.output_dir, config, process, device, {"weights": weights})
    if process.is_main:
        save_image_records(args.output_dir, checked.files)
    warnings = [*never_happens(flatten(config)), *unused, *checked.warnings_for(network.num_queries)]
    messages = [*checked.lines, *(f"warning: {warning}" for warning in warnings), computation, started]
    start_log(folder, start, state, messages, {which: split_facts(split) for which, split in checked.splits.items()})
    return Run(checked.splits, state, criterion, postprocess, folder, device)


def prepare_evaluation(args: argparse.Namespace, process: ProcessInfo, device: torch.device, locks: ExitStack) -> Run:
    """Load a checkpoint to evaluate, check the data, and hold a folder of its own for the results."""
    path, content, config = load_for_evaluation(args)
    check_model(config.model)
    config, classes = fill_from_checkpoint(config, content)
    split, warnings = check_split(config.data, args.data_path, "val", num_classes=classes, opens_images=process.is_main)

    model, criterion, postprocess = build_model_with_weights(config, split.names, content, path)
    state = build_state(config, split.names, split.num_images, model.to(device), device, process.world_size)
    state.load_position(content)
    computation = speed_up([state.model, state.average.module], config.speed, device)

    labels = {"weights": kind_of_weights(content, path), "checkpoint": str(path)}
    facts = {**evaluated_source(split, config), "step": state.step, **labels}
    results = hold_folder(args.output_dir, split.ground_truth(), facts, locks)
    folder = open_run_folder(results, config, process, device, labels)
    messages = [computation, f"val: {describe(split)}", *(f"warning: {warning}" for warning in warnings)]
    folder.log.info("\n".join([*messages, f"evaluating {path}, epoch {state.epoch}; results: {results}"]))
    return Run({"val": split}, state, criterion, postprocess, folder, device)


def before_step(run: Run, log: TrainingLog) -> collectives.StepRequests:
    """Set the learning rate of the next step; what this rank asks all ranks to do after it."""
    set_rates(run.state, run.folder.config.optim, log.num_windows)
    return collectives.StepRequests(save=run.folder.is_checkpoint_due, stop=STOP.is_requested)


def after_step(run: Run, log: TrainingLog, step: Step) -> None:
    """Average the weights and log the losses; save a checkpoint and stop where the ranks have agreed to."""
    state = run.state
    rates = learning_rates(state.optimizer)
    if not step.is_taken:
        files = run.splits["train"].files_by_id
        nonfinite.skip_or_stop(run.folder, state, log, step.window, step.losses, step.grad_norm, files)
    state.finish_step()
    if step.is_taken:
        state.average.update(state.model, state.step)
        log.add(step.window, step.plan.num_boxes, step.total, step.counted, step=state.step, rates=rates)
    else:
        log.add_skipped(step=state.step, rates=rates)
    if step.plan.saves:
        state.collected = log.state()
        run.folder.save_checkpoint(state)
    if step.plan.stops:
        log.close()
        where = f"in epoch {state.epoch} after step {state.step}"
        exit_for_requeue(run.folder.log, f"{where}; the same command resumes from there")


def after_epoch(run: Run) -> None:
    """Evaluate after an epoch if that is due and not done; save the best checkpoint and those kept for good."""
    if run.folder.is_evaluation_due(run.state):
        run.folder.save_evaluated(run.state, evaluate(run))
    run.folder.save_for_good(run.state)


def evaluate(run: Run) -> dict[str, float]:
    """Predict the validation images on all ranks; write the results on the main one, and return the metrics there."""
    config = run.folder.config
    process = run.folder.process
    split = run.splits["val"]
    size = config.eval.eval_batch_size
    loader = build_eval_loader(split, config.data, batch_size=size, rank=process.rank, world_size=process.world_size)
    batches = until_stop_request(loader, process)
    part = predict(run.state.average.module, run.postprocess.to(run.device), batches, run.state.precision, run.device)
    truth = split.ground_truth()
    return evaluate_parts(run.folder, run.state, part, truth, image_kinds(truth.files), evaluated_source(split, config))


if __name__ == "__main__":
    run_program(main)
