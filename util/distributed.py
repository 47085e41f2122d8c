"""Several ranks as one: start, the few collectives there are, and who speaks. Nothing else reads the environment."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.errors import ToldElsewhere, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Where this process stands."""

    rank: int
    world_size: int
    local_rank: int

    @property
    def is_main(self) -> bool:
        """The one that writes."""
        return self.rank == 0


def announced() -> Ranks:
    """Where torchrun says in the environment that this process stands; without it, the only rank."""
    return Ranks(*(int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))))


@contextmanager
def ranks(device_type: str) -> Iterator[Ranks]:
    """Join the process group that torchrun announces in the environment; without one, be a single rank.

    After an error the group is not left in order: that would wait for ranks which wait for this one.

    Raises:
        UserError: more ranks on this machine than CUDA devices.
    """
    here = announced()
    if device_type == "cuda":
        if here.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {here.rank} wants CUDA device {here.local_rank}, but this machine has "
                f"{torch.cuda.device_count()}; start torchrun with a smaller --nproc_per_node"
            )
        torch.cuda.set_device(here.local_rank)
    if here.world_size == 1:
        yield here
        return
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    yield here
    dist.destroy_process_group()


def together(prepare: Callable[[], T]) -> T:
    """Do a piece of set-up on every rank. Where one rank fails all do, and each message is told once.

    Raises:
        UserError: this rank is the first to meet the problem.
        ToldElsewhere: only others meet a problem, or an earlier rank tells the same.
    """
    problem = None
    try:
        result = prepare()
    except UserError as error:
        problem = error
    messages = gather_objects(None if problem is None else str(problem))
    if problem is not None and messages.index(str(problem)) == announced().rank:
        raise problem
    if any(message is not None for message in messages):
        raise ToldElsewhere
    return result


@dataclass(frozen=True)
class WindowCounts:
    """What all ranks of an optimizer step have to agree on."""

    num_boxes: float  # the denominator: boxes of all ranks, at least 1, divided by the number of ranks
    most_boxes: int  # boxes of the fullest image on any rank


def count_window(num_boxes: int, most_boxes: int, device: torch.device) -> WindowCounts:
    """Agree on the denominator and on the fullest image with one small all-reduce.

    Distributed training averages gradients over ranks, hence the division by their number. The floor of 1 holds for
    the whole step, before that division: a step with fewer boxes than ranks, the usual one on TBX11K, is otherwise
    weighted less the more ranks share it. (The official code puts the floor after the division.)
    """
    if not is_distributed():
        return WindowCounts(max(1.0, float(num_boxes)), most_boxes)
    world = dist.get_world_size()
    counts = torch.zeros(world + 1, dtype=torch.int64, device=device)  # the sum, and one place per rank
    counts[0] = num_boxes
    counts[1 + dist.get_rank()] = most_boxes
    dist.all_reduce(counts)
    total, *most = counts.tolist()
    return WindowCounts(max(1.0, total) / world, max(most))


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
