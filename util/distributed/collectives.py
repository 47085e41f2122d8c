"""Several ranks as one: start, the few collectives there are, and who speaks."""

import inspect
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from util.base.errors import ReportedByOtherRank, UserError
from util.base.launcher import ProcessInfo, current_process, is_under_torchrun, torchrun_store
from util.distributed.preemption import STOP, Preempted

T = TypeVar("T")
# Counters that all ranks see, and seconds that others get to arrive once this one is asked to stop: a rank that looks
# at the images for all may still come to a step and save.
STARTS = ("dino/starts", 5.0)
ARRIVALS = ("dino/arrivals", 12.0)
LOOK_EVERY = 0.1  # seconds between looks at them
CONNECTED_WITHIN = 5.0  # seconds; the store of torchrun is there before the ranks are
ANSWERED_WITHIN = timedelta(minutes=30)  # collectives


@contextmanager
def process_group(device_type: str) -> Iterator[ProcessInfo]:
    """Join the process group that torchrun announces in the environment; without one, be a single rank.

    After an error the group is not left in order: that would wait for ranks which wait for this one.

    Raises:
        UserError: more ranks on this machine than CUDA devices.
    """
    process = current_process()
    if device_type == "cuda":
        if process.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {process.rank} wants CUDA device {process.local_rank}, but this machine has "
                f"{torch.cuda.device_count()}; start torchrun with a smaller --nproc_per_node"
            )
        torch.cuda.set_device(process.local_rank)
    if process.world_size == 1:
        yield process
        return
    _join("nccl" if device_type == "cuda" else "gloo")
    try:
        yield process
    except Preempted:  # all ranks stop together
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def run_on_all_ranks(prepare: Callable[[], T]) -> T:
    """Do a piece of set-up on every rank. Where one rank fails all do, and each message is told once.

    It may take one rank longer than a collective waits, as where that one reads every image for all.

    Raises:
        UserError: this rank is the first to meet the problem.
        ReportedByOtherRank: only others meet a problem, or an earlier rank tells the same.
    """
    problem = None
    try:
        result = prepare()
    except UserError as error:
        problem = error
    if is_distributed():
        _wait_patiently(dist.distributed_c10d._get_default_store(), dist.get_world_size(), ARRIVALS)
    messages = gather_objects(None if problem is None else str(problem))
    if problem is not None and messages.index(str(problem)) == current_process().rank:
        raise problem
    if any(message is not None for message in messages):
        raise ReportedByOtherRank
    return result


def _join(backend: str) -> None:
    """Join the process group once all ranks are there: nothing can interrupt joining while one of them is missing."""
    _require_launcher()
    store, rank, world_size = next(dist.rendezvous("env://", timeout=ANSWERED_WITHIN))
    _wait_patiently(store, world_size, STARTS)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=ANSWERED_WITHIN)


def _require_launcher() -> None:
    """Notice that torchrun is gone: it may have been killed before this process could watch it.

    Raises:
        RuntimeError: nobody answers where its store was before it started the ranks.
    """
    address = torchrun_store()
    until = time.monotonic() + CONNECTED_WITHIN
    while address is not None:
        try:
            socket.create_connection(address, timeout=CONNECTED_WITHIN).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise RuntimeError(f"torchrun does not answer at {address[0]}:{address[1]}; it is gone") from error
        time.sleep(LOOK_EVERY)


def _wait_patiently(store: dist.Store, world_size: int, meeting: tuple[str, float]) -> None:
    """Let every rank arrive, however long that takes.

    Raises:
        SystemExit: torchrun asks this rank to end, as it does where another one has died, and they do not arrive.
    """
    counter, patience = meeting
    wanted = -(-store.add(counter, 1) // world_size) * world_size  # nobody comes again before all have come
    asked = None
    while store.add(counter, 0) < wanted:
        if STOP.signal is signal.SIGTERM and is_under_torchrun():
            asked = asked or time.monotonic()
            if time.monotonic() - asked > patience:
                raise SystemExit(128 + signal.SIGTERM)
        time.sleep(LOOK_EVERY)


def require_same(value: object, what: str) -> None:
    """All ranks must start alike; on a shared disk one of them may not have seen the newest files yet.

    Raises:
        UserError: on the first rank; ReportedByOtherRank on the others.
    """
    values = gather_objects(value)
    if any(other != values[0] for other in values):
        if current_process().rank:
            raise ReportedByOtherRank
        raise UserError(f"{what} were found by the ranks, {values}; start again")


@dataclass(frozen=True)
class StepRequests:
    """What this rank asks all ranks to do after the optimizer step to come."""

    save: bool = False
    stop: bool = False


@dataclass(frozen=True)
class WindowPlan:
    """What all ranks of an optimizer step have agreed on."""

    num_boxes: float  # the denominator: boxes of all ranks, at least 1, divided by the number of ranks
    most_boxes: int  # boxes of the fullest image on any rank
    saves: bool = False  # a checkpoint is written after the step
    stops: bool = False  # so it is, and the run stops


def plan_window(
    num_boxes: int, most_boxes: int, device: torch.device, requests: StepRequests | None = None
) -> WindowPlan:
    """Agree on an optimizer step with one small all-reduce; it is the only one that a step adds to those of DDP.

    Distributed training averages gradients over ranks, hence the division of the denominator by their number. The
    floor of 1 holds for the whole step, before that division: a step with fewer boxes than ranks, the usual one on
    TBX11K, is otherwise weighted less the more ranks share it. (The official code puts the floor after the division.)

    Args:
        num_boxes: boxes of this rank.
        most_boxes: boxes of its fullest image.
        device: where the process group communicates.
        requests: of this rank; what one rank requests, all do.
    """
    requests = requests or StepRequests()
    if not is_distributed():
        return WindowPlan(max(1.0, float(num_boxes)), most_boxes, requests.save or requests.stop, requests.stop)
    world = dist.get_world_size()
    counts = torch.zeros(3 + world, dtype=torch.int64, device=device)  # three sums, and one place per rank
    counts[:3] = torch.tensor([num_boxes, requests.save, requests.stop])
    counts[3 + dist.get_rank()] = most_boxes
    dist.all_reduce(counts)
    total, num_save, num_stop, *most = counts.tolist()
    return WindowPlan(max(1.0, total) / world, max(most), num_save + num_stop > 0, num_stop > 0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on every rank."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, by rank, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Let every rank arrive."""
    if is_distributed():
        dist.barrier()


def is_distributed() -> bool:
    """Whether there is more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def distribute(model: nn.Module, process: ProcessInfo) -> nn.Module:
    """The model as the engine calls it. Buffers never change in training, so they are not exchanged."""
    if process.world_size == 1:
        return model
    names = inspect.signature(DistributedDataParallel).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # newer and older torch
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **{switch: False})


def choose_device_type(wish: str) -> str:
    """'cuda' or 'cpu'. Devices are a matter of the machine, so one rank of each machine complains."""
    if wish == "cuda" and not torch.cuda.is_available():
        if current_process().local_rank > 0:
            raise ReportedByOtherRank
        raise UserError("--device cuda: PyTorch sees no CUDA device; check the driver and the allocation, or use cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wish == "auto" else wish
