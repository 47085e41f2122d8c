"""The workloads of benchmark.py: a training step, inference, deformable attention alone; on images of noise."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine import Learner, Step, predict, train_one_epoch
from models import build_model, speed_up
from models.dino import DINO
from models.losses.criterion import SetCriterion
from models.ops.backends import backend_for
from models.postprocess import PostProcess
from models.transformer.denoising import num_groups
from models.transformer.encoder import cell_centres
from scripts.measure.stopwatch import Stopwatch
from util.base.memory import keep_freed_memory
from util.base.seed import derive_seed, seed_everything
from util.config import Config
from util.config.schema import ModelConfig, resolved
from util.detection.batch import Batch, Sample, Target, collate
from util.distributed.collectives import StepRequests
from util.training.optimizer import build_optimizer
from util.training.precision import DTYPES, Precision

# operations of a sampling point and channel: four corners and the blend, a multiplication and an addition each; the
# backward pass does that for the value, and again for the weights and the place: twice as many
FORWARD_PER_POINT = 10
FLOAT32 = 4  # bytes
ADAMW_PASSES = 7  # reads weight, gradient and two moments; writes weight and moments


@dataclass(frozen=True)
class Case:
    """Task, input size and device of a measurement."""

    task: str  # "train", "inference", "attention"
    batch: int  # images
    size: tuple[int, int]  # (h, w) pixels
    boxes: int  # on each image
    device: torch.device


@dataclass(frozen=True)
class Workload:
    """A piece of work to repeat and time."""

    name: str
    run: Callable[[], Tensor]  # one repeat; its result is compared with that of other settings
    timed: Callable[[Stopwatch], AbstractContextManager] | None  # a context that times its parts, if there are any
    device_type: str
    known: list[Tensor]  # tensors that live longer than a repeat
    description: str = ""  # how it is computed
    keeps_memory: bool = False  # freed memory stays with the process

    def prepare(self) -> None:
        """Set the memory policy of this setting before a repeat; all settings share the process."""
        if self.device_type == "cpu":
            keep_freed_memory(self.keeps_memory)


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a repeat, and a lower bound of the bytes it moves."""

    forward: int
    backward: int
    least_bytes: int | None  # weights, gradients and moments; activations come on top

    @property
    def total(self) -> int:
        """Operations of both passes."""
        return self.forward + self.backward


def build_workloads(config: Config, case: Case) -> list[Workload]:
    """Build the workloads of a task, with the same weights and images for every setting."""
    workloads = {"train": training, "inference": inference, "attention": attention}[case.task](config, case)
    return [replace(work, keeps_memory=config.speed.fast_layers) for work in workloads]


def training(config: Config, case: Case) -> list[Workload]:
    """The step of engine.train_one_epoch on one batch: forward, criterion, backward, clipping, AdamW."""
    model, criterion, _, description = build(config, case)
    optim = config.optim
    batch = noise_batch(case)
    optimizer = build_optimizer(
        model,
        kind=optim.param_dict_type,
        lr=optim.lr,
        lr_backbone=optim.lr_backbone,
        lr_linear_proj_mult=optim.lr_linear_proj_mult,
        weight_decay=optim.weight_decay,
        decays_vectors=optim.decay_norms_and_biases,
        is_fused=config.speed.fast_layers,
    )
    max_norm = optim.clip_max_norm or float("inf")
    precision = Precision(optim.amp, case.device.type)
    learner = Learner(model, criterion, optimizer, precision, case.device, max_norm)

    def run() -> Tensor:
        steps: list[Step] = []
        train_one_epoch(learner, [batch], accum_steps=1, before_step=StepRequests, after_step=steps.append)
        return torch.stack(list(steps[0].losses[0].values())).cpu()

    def timed(watch: Stopwatch) -> ExitStack:
        stack = time_network(watch, model)
        enter = stack.enter_context
        enter(patch.object(criterion, "losses_and_events", watch.times("criterion", criterion.losses_and_events)))
        enter(patch.object(criterion, "matcher", watch.times("matching", criterion.matcher)))
        time_backward(watch, precision, enter)
        return stack

    known = [*model.parameters(), *model.buffers()]
    return [Workload("training step", run, timed, case.device.type, known, description)]


def inference(config: Config, case: Case) -> list[Workload]:
    """engine.predict on one batch: forward and post-processing."""
    model, _, postprocess, description = build(config, case)
    precision = Precision(config.optim.amp, case.device.type)
    batch = noise_batch(case)
    postprocess.to(case.device)

    def run() -> Tensor:
        found = predict(model, postprocess, [batch], precision, case.device)
        return torch.from_numpy(found.score).sort(descending=True).values

    def timed(watch: Stopwatch) -> ExitStack:
        stack = time_network(watch, model)
        stack.enter_context(patch.object(postprocess, "forward", watch.times("post-processing", postprocess.forward)))
        return stack

    return [Workload("inference", run, timed, case.device.type, [*model.parameters(), *model.buffers()], description)]


def attention(config: Config, case: Case) -> list[Workload]:
    """Deformable attention without its linear layers, at the shapes of the encoder and of the decoder."""
    model = config.model
    workloads = []
    for name in ("encoder", "decoder"):
        for is_training in (False, True):
            run, known = sampler(config, case, name, is_training=is_training)
            kind = "forward + backward" if is_training else "forward"
            workloads.append(Workload(f"{name}, {kind}", run, None, case.device.type, known))
    levels = ", ".join(f"{h} x {w}" for h, w in level_shapes(model, case.size))
    description = f"levels {levels}; {num_decoder_queries(model, case)} decoder queries"
    return [replace(workloads[0], description=description), *workloads[1:]]


def sampler(config: Config, case: Case, which: str, *, is_training: bool) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One call of the backend and its inputs; sampling points lie around cell centres, or inside boxes."""
    model = config.model
    device = case.device
    shapes = level_shapes(config.model, case.size)
    draw = torch.Generator().manual_seed(config.runtime.seed)
    total = sum(h * w for h, w in shapes)
    points = model.enc_n_points if which == "encoder" else model.dec_n_points
    queries = total if which == "encoder" else num_decoder_queries(model, case)
    heads = model.nheads
    levels = len(shapes)
    offsets = torch.randn(case.batch, queries, heads, levels, points, 2, generator=draw)
    if which == "encoder":
        sides = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)
        centres = torch.cat([cell_centres(h, w, torch.device("cpu")) / torch.tensor([w, h]) for h, w in shapes])
        locations = centres[None, :, None, None, None] + 2 * offsets / sides[:, None]
    else:
        locations = torch.rand(case.batch, queries, 1, 1, 1, 2, generator=draw) + 0.05 * offsets
    value = torch.randn(case.batch, total, heads, model.hidden_dim // heads, generator=draw)
    weights = torch.randn(case.batch, queries, heads, levels * points, generator=draw).softmax(-1)
    value = value.to(device, DTYPES[config.optim.amp]).requires_grad_(is_training)
    locations = locations.to(device).requires_grad_(is_training)
    weights = weights.view(case.batch, queries, heads, levels, points).to(device).requires_grad_(is_training)
    call = backend_for(config.speed.attn_backend, device.type)
    upstream = torch.ones(case.batch, queries, model.hidden_dim, device=device, dtype=value.dtype)

    def run() -> Tensor:
        with torch.set_grad_enabled(is_training):
            out = call(value, shapes, locations, weights)
        if not is_training:
            return out
        gradients = torch.autograd.grad(out, (value, locations, weights), upstream)
        return gradients[0].detach()

    return run, [value, locations, weights]


def build(config: Config, case: Case) -> tuple[DINO, SetCriterion, PostProcess, str]:
    """Network, loss and post-processing, initialised from the seed, and a description of the kernels in use."""
    seed_everything(config.runtime.seed)
    model, criterion, postprocess = build_model(config, range(1, resolved(config.model.num_classes)))
    model.to(case.device)
    return model, criterion, postprocess, speed_up([model], config.speed, case.device)


def noise_batch(case: Case) -> Batch:
    """A batch of random images with random boxes, the same at every call."""
    draw = torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (3, *case.size), generator=draw, dtype=torch.uint8) for _ in range(case.batch)]
    targets = [noise_target(i, case, draw) for i in range(case.batch)]
    return collate([Sample(p, t) for p, t in zip(pixels, targets, strict=True)])


def noise_target(number: int, case: Case, draw: torch.Generator) -> Target:
    """Boxes of a tenth to a half of the image's sides, with label 1."""
    centre = 0.3 + 0.4 * torch.rand(case.boxes, 2, generator=draw)
    sides = 0.1 + 0.4 * torch.rand(case.boxes, 2, generator=draw)
    return {
        "boxes": torch.cat((centre, sides), dim=1),
        "labels": torch.ones(case.boxes, dtype=torch.int64),
        "image_id": torch.tensor(number),
        "orig_size": torch.tensor(case.size),
        "size": torch.tensor(case.size),
        "noise_seed": torch.tensor(derive_seed("benchmark", number)),
    }


def time_network(watch: Stopwatch, model: DINO) -> ExitStack:
    """Time the parts of the forward pass: a context in which the functions of the network are wrapped."""
    stack = ExitStack()
    transformer = model.transformer
    wraps: list[tuple[nn.Module, str, str]] = [(model, "forward", "forward")]
    wraps += [(part, "forward", "projections") for part in model.input_proj]
    wraps += [(transformer.encoder, "forward", "encoder"), (transformer.decoder, "forward", "decoder")]
    wraps += [(transformer, "_select", "query selection"), (transformer.decoder, "predict", "heads")]
    attentions = [layer.get_submodule("self_attn") for layer in transformer.encoder.layers]
    attentions += [layer.get_submodule("cross_attn") for layer in transformer.decoder.layers]
    wraps += [(module, "forward", "deformable attention") for module in attentions]
    for owner, name, part in wraps:
        stack.enter_context(patch.object(owner, name, watch.times(part, getattr(owner, name))))
    # the backbone may be compiled as a whole, with whatever its forward is: so it is wrapped from outside
    backbone = model.backbone[0]
    stack.callback(lambda: model.backbone.__setitem__(0, backbone))
    model.backbone[0] = Timed(watch, "backbone", backbone)
    return stack


class Timed(nn.Module):
    """A module timed from outside, so that it may be compiled as a whole."""

    def __init__(self, watch: Stopwatch, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner  # a child still: its weights are clipped with the others
        self.call = watch.times(name, inner)

    def forward(self, *args: Tensor) -> object:
        """Call the module."""
        return self.call(*args)


def time_backward(watch: Stopwatch, precision: Precision, enter: Callable) -> None:
    """Time backward, clipping and optimizer; backward is between scaling the loss and clipping the gradient."""
    scale = precision.scale
    clip = watch.times("clip", precision.unscale_and_clip)

    def scale_and_begin(loss: Tensor) -> Tensor:
        scaled = scale(loss)
        watch.begin("backward")
        return scaled

    def end_and_clip(*args: object) -> Tensor:
        watch.end()
        return clip(*args)

    enter(patch.object(precision, "scale", scale_and_begin))
    enter(patch.object(precision, "unscale_and_clip", end_and_clip))
    enter(patch.object(precision, "step", watch.times("optimizer", precision.step)))


def count_operations(config: Config, case: Case) -> dict[str, Operations]:
    """Operations of each workload by name, counted for the algorithm and not for the kernel in use.

    PyTorch counts those of convolutions and products of matrices on the plain path. Those of deformable attention are
    added: 10 per sampling point and channel forward, 20 backward.
    """
    core = {which: attention_operations(config.model, case, which) for which in ("encoder", "decoder")}
    if case.task == "attention":
        found = {f"{which}, forward": Operations(count, 0, None) for which, count in core.items()}
        found |= {f"{w}, forward + backward": Operations(count, 2 * count, None) for w, count in core.items()}
        return found
    plain = replace(
        config,
        optim=replace(config.optim, amp="off"),
        speed=replace(config.speed, attn_backend="torch", fast_layers=False, compile="off", channels_last=False),
    )
    plain = replace(plain, speed=replace(plain.speed, activation_checkpointing=False))
    model, criterion, _, _ = build(plain, case)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch = noise_batch(case).to(case.device)
    is_training = case.task == "train"
    sampled = config.model.enc_layers * core["encoder"] + config.model.dec_layers * core["decoder"]
    weights = sum(p.numel() for p in model.parameters())
    if not is_training:
        model.requires_grad_(False)
    with torch.set_grad_enabled(is_training), FlopCounterMode(display=False) as counter:
        outputs = model.train(is_training)(batch.images, batch.mask, batch.targets)
        forward = counter.get_total_flops()
        if is_training:
            criterion(outputs, batch.targets, float(max(1, batch.num_boxes)))["loss"].backward()
    backward = counter.get_total_flops() - forward
    if not is_training:
        return {"inference": Operations(forward + sampled, 0, FLOAT32 * weights)}
    moved = FLOAT32 * (2 * weights + (1 + ADAMW_PASSES) * trained)  # both passes read them; gradients are written once
    return {"training step": Operations(forward + sampled, backward + 2 * sampled, moved)}


def attention_operations(model: ModelConfig, case: Case, which: str) -> int:
    """Operations of one forward call of deformable attention."""
    cells = sum(h * w for h, w in level_shapes(model, case.size))
    queries = cells if which == "encoder" else num_decoder_queries(model, case)
    points = model.num_feature_levels * (model.enc_n_points if which == "encoder" else model.dec_n_points)
    return FORWARD_PER_POINT * case.batch * queries * points * model.hidden_dim


def level_shapes(model: ModelConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(h, w) of the feature levels of the transformer."""
    stages = range(model.return_interm_indices[0], model.return_interm_indices[0] + model.num_feature_levels)
    return [tuple(math.ceil(side / (4 * 2**stage)) for side in size) for stage in stages]


def num_decoder_queries(model: ModelConfig, case: Case) -> int:
    """Number of decoder queries; in training with those of denoising."""
    is_denoising = model.dn_number and case.boxes and case.task != "inference"
    return model.num_queries + (2 * num_groups(model.dn_number, case.boxes) * case.boxes if is_denoising else 0)
