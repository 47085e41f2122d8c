"""The process group, the collectives of a run, and set-up steps in which all ranks fail together."""

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
# Counters in the shared store, and how many seconds a rank that is asked to stop still waits for the others: one that
# reads all images for the rest may still reach a step and save.
STARTS = ("dino/starts", 5.0)
ARRIVALS = ("dino/arrivals", 12.0)
POLL_INTERVAL = 0.1  # seconds between reads of a counter
CONNECT_TIMEOUT = 5.0  # seconds; torchrun starts its store before the ranks
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@contextmanager
def process_group(device_type: str) -> Iterator[ProcessInfo]:
    """Join the process group described by torchrun's environment; without torchrun yield a single rank.

    After an error the group is not destroyed, as that would wait for ranks that wait for this one.

    Raises:
        UserError: more ranks on this machine than CUDA devices.
    """
    process = current_process()
    if device_type == "cuda":
        if process.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {process.rank} needs CUDA device {process.local_rank}, but this machine has "
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
    """Run a set-up step on every rank. If one rank fails all ranks fail, and each message is reported once.

    The step may take a rank longer than the timeout of a collective, as when one rank reads every image for all.

    Raises:
        UserError: this rank is the first one with the problem.
        ReportedByOtherRank: only others have a problem, or an earlier rank reports the same one.
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
    """Join the process group once all ranks have started, as joining cannot be interrupted while one is missing."""
    _require_launcher()
    store, rank, world_size = next(dist.rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    _wait_patiently(store, world_size, STARTS)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)


def _require_launcher() -> None:
    """Check that torchrun still runs: it may have been killed before this process started to watch it.

    Raises:
        RuntimeError: its store, which it starts before the ranks, does not answer.
    """
    address = torchrun_store()
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while address is not None:
        try:
            socket.create_connection(address, timeout=CONNECT_TIMEOUT).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"torchrun does not answer at {address[0]}:{address[1]}; it is gone") from error
        time.sleep(POLL_INTERVAL)


def _wait_patiently(store: dist.Store, world_size: int, counter_and_patience: tuple[str, float]) -> None:
    """Wait without a timeout until every rank has arrived.

    Raises:
        SystemExit: torchrun asks this rank to end, as it does when another rank has died, and the rest do not arrive.
    """
    counter, patience = counter_and_patience
    expected = -(-store.add(counter, 1) // world_size) * world_size  # no rank arrives twice before all have arrived
    asked_at = None
    while store.add(counter, 0) < expected:
        if STOP.signal is signal.SIGTERM and is_under_torchrun():
            asked_at = asked_at or time.monotonic()
            if time.monotonic() - asked_at > patience:
                raise SystemExit(128 + signal.SIGTERM)
        time.sleep(POLL_INTERVAL)


def require_same(value: object, what: str) -> None:
    """Require the same value on all ranks: on a shared disk one of them may not see the newest files yet.

    Raises:
        UserError: on the first rank; ReportedByOtherRank on the others.
    """
    values = gather_objects(value)
    if any(other != values[0] for other in values):
        if current_process().rank:
            raise ReportedByOtherRank
        raise UserError(f"{what} were found by the ranks, {values}; restart")


@dataclass(frozen=True)
class StepRequests:
    """What this rank asks all ranks to do after the optimizer step to come."""

    save: bool = False
    stop: bool = False


@dataclass(frozen=True)
class WindowPlan:
    """What all ranks have agreed on for an optimizer step."""

    num_boxes: float  # the denominator: boxes of all ranks, at least 1, divided by the number of ranks
    most_boxes: int  # the largest number of boxes of one image, over all ranks
    saves: bool = False  # a checkpoint is written after the step
    stops: bool = False  # a checkpoint is written after the step, and the run stops


def plan_window(
    num_boxes: int, most_boxes: int, device: torch.device, requests: StepRequests | None = None
) -> WindowPlan:
    """Agree on an optimizer step with one small all-reduce, the only one in a step besides those of DDP.

    Distributed training averages gradients over ranks, hence the division of the denominator by their number. The
    floor of 1 holds for the whole step, before that division: a step with fewer boxes than ranks, common when
    most images have none, would otherwise weigh less on more ranks. (The official code applies it after the division.)

    Args:
        num_boxes: boxes of this rank.
        most_boxes: largest number of boxes of one image on this rank.
        device: where the process group communicates.
        requests: of this rank; all ranks do what one of them requests.
    """
    requests = requests or StepRequests()
    if not is_distributed():
        return WindowPlan(max(1.0, float(num_boxes)), most_boxes, requests.save or requests.stop, requests.stop)
    world = dist.get_world_size()
    counts = torch.zeros(3 + world, dtype=torch.int64, device=device)  # three sums, and one slot per rank
    counts[:3] = torch.tensor([num_boxes, requests.save, requests.stop])
    counts[3 + dist.get_rank()] = most_boxes
    dist.all_reduce(counts)
    total, num_save, num_stop, *most = counts.tolist()
    return WindowPlan(max(1.0, total) / world, max(most), num_save + num_stop > 0, num_stop > 0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place; every rank gets the sum."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def gather_objects(value: Any) -> list[Any]:
    """Gather the values of all ranks, ordered by rank, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Wait until every rank has arrived."""
    if is_distributed():
        dist.barrier()


def is_distributed() -> bool:
    """Return whether there is more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def distribute(model: nn.Module, process: ProcessInfo) -> nn.Module:
    """Wrap the model for distributed training. Buffers never change in training, so they are not synchronised."""
    if process.world_size == 1:
        return model
    names = inspect.signature(DistributedDataParallel).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # newer and older torch
    options: dict[str, Any] = {"gradient_as_bucket_view": True, switch: False}
    return DistributedDataParallel(model, **options)


def choose_device_type(requested: str) -> str:
    """Resolve 'auto', 'cuda' or 'cpu' to an available device type; one rank per machine reports a missing device."""
    if requested == "cuda" and not torch.cuda.is_available():
        if current_process().local_rank > 0:
            raise ReportedByOtherRank
        raise UserError("--device cuda: PyTorch sees no CUDA device; check the driver and the allocation, or use cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if requested == "auto" else requested
