"""Train or evaluate DINO.

    python main.py --config_file CONFIG --data_path DIR --output_dir logs/RUN
    torchrun --nproc_per_node=2 main.py ...

The command line says where and what, the config says how.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets.build import build_eval_loader, build_split, build_train_loader, crowded_images, describe
from datasets.checks import check_pair
from datasets.coco import Split
from engine import Learner, predict, train_one_epoch
from models import build_model
from models.backbone_weights import load_backbone_weights
from util import checkpoint
from util.batch import Window
from util.config import load_config, resolve
from util.distributed import Ranks, announced, gather_objects, ranks, together, wait_for_all
from util.errors import ToldElsewhere, UserError
from util.logger import Progress, RunLog, complain
from util.metrics.files import save_detections, save_report
from util.metrics.protocols import format_table, report
from util.metrics.tables import merge
from util.optim import learning_rate_factor, learning_rates, set_learning_rate
from util.run_folder import open_log
from util.run_state import RunState, build_state
from util.schema import Config
from util.seed import derive_seed, seed_everything
from util.training_log import TrainingLog

BEST_METRIC, BEST_CHECKPOINT = "all/per_class/AP", "best.pth"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate DINO on a TBX11K or COCO-format folder.")
    add = parser.add_argument
    add("-c", "--config_file", help="Python config file; in evaluation, by default the config inside the checkpoint")
    add("--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values of the config")
    add("--data_path", "--coco_path", type=Path, required=True, help="data folder")
    add("--output_dir", type=Path, help="run folder; in evaluation, by default the folder of the checkpoint")
    add("--resume", type=Path, help="checkpoint to go on from, or to evaluate")
    add("--pretrain_model_path", type=Path, help="weights to start from; what does not fit is reported")
    add("--eval", action="store_true", help="evaluate a checkpoint instead of training")
    add("--device", choices=["auto", "cuda", "cpu"], default="auto", help="auto: cuda where there is one")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    The exit code is 0; 2 for what the user can mend; 1 for numbers that are not finite and for a full GPU; 130 for
    Ctrl-C. Whatever the end, the last checkpoint is whole and the same command goes on from it.
    """
    args = parse_arguments(arguments)
    try:
        device_type = choose_device_type(args.device)
        with ranks(device_type) as here:
            device = torch.device(device_type, here.local_rank) if device_type == "cuda" else torch.device("cpu")
            (evaluate if args.eval else train)(args, here, device)
    except ToldElsewhere:
        return 2
    except UserError as error:
        complain(str(error))
        return 2
    except PermissionError as error:
        complain(f"{error.filename}: {error.strerror}; check the permissions of the file and of the folders above it")
        return 2
    except FloatingPointError as error:
        complain(str(error))
        return 1
    except torch.OutOfMemoryError as error:
        complain(f"{first_line(error)} Lower batch_size (and raise gradient_accumulation_steps) or use amp='bf16'")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last checkpoint")
        return 130
    return 0


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


def train(args: argparse.Namespace, here: Ranks, device: torch.device) -> None:
    """Train from the chosen start to the last epoch; save and judge after each."""
    run = together(partial(prepare_training, args, here, device))
    require_one_position(run)
    config, state, optim = run.config, run.state, run.config.optim
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
    learner = Learner(distribute(state.model, here), run.criterion, state.optimizer, state.precision, device, max_norm)
    training_log = TrainingLog(run.log, config.runtime.log_every, sampler.num_windows, device, here.world_size)
    if optim.warmup_steps >= optim.epochs * sampler.num_windows:
        run.log.say(f"warning: warmup_steps {optim.warmup_steps} outlasts the training; lr is never reached")
    judge_if_due(run)  # a run that was cut off while it was judged
    while state.epoch < optim.epochs:
        sampler.set_epoch(state.epoch)
        training_log.start_epoch(state.epoch)
        seed_everything(derive_seed(config.runtime.seed, "epoch", state.epoch, here.rank))  # dropout, stochastic depth
        try:
            train_one_epoch(
                learner,
                training_log.watch(loader),
                accum_steps=optim.gradient_accumulation_steps,
                before_step=partial(schedule, state, training_log, config),
                after_step=partial(follow, state, training_log),
            )
        except FloatingPointError as error:
            at = f"epoch {state.epoch}, after step {state.step}"
            raise FloatingPointError(f"{at}: {error}. The last checkpoint is untouched") from error
        state.epoch += 1
        training_log.finish_epoch(state.step)
        keep(run, checkpoint.OWN_NAME)
        judge_if_due(run)
        if config.runtime.save_checkpoint_interval and state.epoch % config.runtime.save_checkpoint_interval == 0:
            keep(run, f"checkpoint{state.epoch:04d}.pth")
        wait_for_all()
    best = "best {metric}: {value:.4f}, epoch {epoch}".format(**state.best) if state.best else "no best epoch"
    run.log.say(f"training is finished: {state.epoch} epochs, {state.step} optimizer steps; {best}")


def evaluate(args: argparse.Namespace, here: Ranks, device: torch.device) -> None:
    """Evaluate one checkpoint: that of --resume, or else the best of the run folder."""
    judge(together(partial(prepare_evaluation, args, here, device)))


def prepare_training(args: argparse.Namespace, here: Ranks, device: torch.device) -> Run:
    """Check and load everything; only then is something written."""
    if not args.config_file or not args.output_dir:
        raise UserError("training needs --config_file CONFIG and --output_dir logs/NAME")
    config = load_config(args.config_file, args.options)
    splits = {which: build_split_for(config, args, which, here) for which in ("train", "val")}
    check_pair(splits["train"], splits["val"])
    start = checkpoint.choose_start(args.output_dir, args.resume, args.pretrain_model_path)
    seed_everything(config.runtime.seed)
    model, criterion, postprocess = build_model(config, splits["train"].category_ids)
    state = build_state(config, splits["train"].names, model.to(device), device)
    said = begin(state, start, config)
    log = open_log(args.output_dir, config, here, device, is_training=True)
    for which, split in splits.items():
        log.say(f"{which}: {describe(split)}")
    if crowded := crowded_images(splits["train"], config.model.num_queries):
        log.say(f"warning: {crowded}")
    log.say(said)
    weights = "ema" if state.average.is_copy else "model"
    return Run(args.output_dir, config, splits, state, criterion, postprocess, weights, log, here, device)


def prepare_evaluation(args: argparse.Namespace, here: Ranks, device: torch.device) -> Run:
    """The same for a checkpoint to evaluate."""
    if args.pretrain_model_path:
        raise UserError("--pretrain_model_path is where a training starts; the checkpoint to evaluate is --resume")
    path = args.resume or (args.output_dir / BEST_CHECKPOINT if args.output_dir else None)
    if path is None:
        raise UserError("evaluation needs --resume CHECKPOINT, or --output_dir with the folder of a run")
    content = checkpoint.load(path)
    if args.config_file:
        config = load_config(args.config_file, args.options)
    elif "config" in content:
        config = resolve(content["config"], args.options, source=f"{path} (the config inside)")
    else:
        raise UserError(f"{path}: holds no config, as official checkpoints do not; give --config_file")
    folder = args.output_dir or path.parent
    split = build_split_for(config, args, "val", here)
    model, criterion, postprocess = build_model(config, content.get("category_ids") or split.category_ids)
    checkpoint.load_strictly(model, checkpoint.weights_of(content, path), path)
    state = build_state(config, split.names, model.to(device), device)
    state.epoch, state.step = content.get("epoch", 0), content.get("step", 0)
    log = open_log(folder, config, here, device, is_training=False)
    log.say(f"val: {describe(split)}\nevaluating {path}, epoch {state.epoch}")
    weights = "ema" if content.get("ema") or content.get("ema_model") else "model"
    return Run(folder, config, {"val": split}, state, criterion, postprocess, weights, log, here, device)


def require_one_position(run: Run) -> None:
    """All ranks must start alike; on a shared disk one of them may not have seen the newest checkpoint yet."""
    positions = gather_objects((run.state.epoch, run.state.step))
    if len(set(positions)) > 1:
        if not run.here.is_main:
            raise ToldElsewhere
        raise UserError(
            f"{run.folder}: the ranks found checkpoints of different (epoch, step) {positions}; start again"
        )


def choose_device_type(wish: str) -> str:
    """'cuda' or 'cpu'. Devices are a matter of the machine, so one rank of each machine complains."""
    if wish == "cuda" and not torch.cuda.is_available():
        if announced().local_rank > 0:
            raise ToldElsewhere
        raise UserError("--device cuda: PyTorch sees no CUDA device; check the driver and the allocation, or use cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wish == "auto" else wish


def build_split_for(config: Config, args: argparse.Namespace, which: str, here: Ranks) -> Split:
    """The training or the validation split of the data folder, checked; one rank looks at the images for all."""
    num_classes = config.model.num_classes
    return build_split(config.data, args.data_path, which, num_classes=num_classes, opens_images=here.is_main)


def begin(state: RunState, start: checkpoint.Start, config: Config) -> str:
    """Bring the state to its start; what to say of it."""
    if start.kind in ("own", "resume"):
        state.restore(start.path)
        return f"start: {start.reason}, at epoch {state.epoch}, step {state.step}"
    if start.kind == "pretrain":
        weights = checkpoint.weights_of(checkpoint.load(start.path), start.path)
        said = checkpoint.load_what_fits(state.model, weights, start.path)
    else:
        said = load_backbone_weights(state.model.backbone[0], config.model.backbone, config.model.backbone_weights)
    state.average.copy_from(state.model)
    return f"start: {start.reason}; {said}"


def distribute(model: nn.Module, here: Ranks) -> nn.Module:
    """The model as the engine calls it. Buffers never change in training, so they are not exchanged."""
    if here.world_size == 1:
        return model
    names = inspect.signature(DistributedDataParallel).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # newer and older torch
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **{switch: False})


def schedule(state: RunState, log: TrainingLog, config: Config) -> None:
    """Set the learning rate of the step to come.

    Steps are counted as if every epoch so far had been cut like this one: a run that goes on with another number of
    ranks still drops its rates at the epochs of the config.
    """
    optim = config.optim
    factor = learning_rate_factor(
        state.epoch * log.num_windows + log.window,
        log.num_windows,
        warmup_steps=optim.warmup_steps,
        drops=optim.lr_drop,
        drop_factor=optim.lr_drop_factor,
    )
    set_learning_rate(state.optimizer, factor)


def follow(state: RunState, log: TrainingLog, window: Window, losses: dict[str, Tensor]) -> None:
    """Take note of a step: average the weights, log the losses."""
    state.step += 1
    state.average.update(state.model, state.step)
    log.add(window, losses, step=state.step, rates=learning_rates(state.optimizer))


def judge_if_due(run: Run) -> None:
    """Judge the weights if their epoch is one to judge and it has not been done; keep them if they are the best."""
    state = run.state
    is_due = state.epoch % run.config.eval.eval_every == 0 or state.epoch == run.config.optim.epochs
    if is_due and state.judged < state.epoch:
        is_best = state.note(BEST_METRIC, judge(run).get(BEST_METRIC))
        if is_best:
            keep(run, BEST_CHECKPOINT)
        keep(run, checkpoint.OWN_NAME)


def keep(run: Run, name: str) -> None:
    """Write a checkpoint into the run folder, on the main rank. No collective: that rank alone knows what is best."""
    if run.here.is_main:
        run.state.save(run.folder / name)


def judge(run: Run) -> dict[str, float]:
    """Predict the split over all ranks; on the main one report, save detections and figures, and return the figures."""
    state, split, eval_config, here = run.state, run.splits["val"], run.config.eval, run.here
    loader = build_eval_loader(
        split, run.config.data, batch_size=eval_config.eval_batch_size, rank=here.rank, world_size=here.world_size
    )
    progress = Progress("evaluation", len(loader), "batches", is_shown=here.is_main)
    part = predict(
        state.average.module,
        run.postprocess.to(run.device),
        loader,
        precision=state.precision,
        device=run.device,
        after_batch=lambda _: progress.advance(),
    )
    progress.close()
    parts = gather_objects(part)
    if not here.is_main:
        return {}
    truth = split.ground_truth()
    found = merge(parts, truth.images)
    values = report(truth, found)
    save_detections(run.folder / "detections.json.gz", found)
    save_report(run.folder / "report.json", values)
    run.log.row("eval", epoch=max(0, state.epoch - 1), step=state.step, weights=run.weights, **values)
    run.log.say(f"evaluation after {state.epoch} epochs, weights: {run.weights}\n{format_table(values, truth)}")
    return values


def first_line(error: BaseException) -> str:
    """An error's message without its appendix."""
    return str(error).strip().split("\n", 1)[0]


if __name__ == "__main__":
    sys.exit(main())
