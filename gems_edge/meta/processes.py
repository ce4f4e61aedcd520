"""Training on several processes under torchrun: tasks are split over ranks, meta-gradients summed."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gems_edge.control_groups import available_cores
from gems_edge.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    rank: int
    local: int  # rank on its machine
    count: int
    device: torch.device
    sent: list[Any] = field(default_factory=list, compare=False, repr=False)  # the last message

    @property
    def first(self) -> bool:
        return self.rank == 0

    def tasks(self, total: int) -> range:
        """The tasks of this process."""
        return range(self.rank, total, self.count)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over all processes, in place, as one message."""
        parts = list(tensors)
        if self.count == 1 or not parts:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in parts])
        # Whoever drops a message last frees it. A thread of gloo that does so while Python ends ends the process.
        work = dist.all_reduce(flat, async_op=True)
        work.wait()
        self.sent[:] = [work]
        for tensor, part in zip(parts, torch.split(flat, [tensor.numel() for tensor in parts])):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def first_of_node(self, work: Callable[[], T]) -> T:
        """Do `work` (reading, perhaps downloading) on one process of each machine before the others do it."""
        if self.local == 0:
            result = work()
        self.wait()
        return result if self.local == 0 else work()

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()
            self.sent.clear()


def alone(device: torch.device) -> Processes:
    """One process that computes there."""
    return Processes(0, 0, 1, device)


def start_processes(compute: str) -> Processes:
    """This process among all; joins the group when torchrun started it (nccl on GPUs, gloo on CPUs)."""
    cuda = torch.cuda.is_available()
    if compute == "cuda" and not cuda:
        raise UserError("--compute cuda: no CUDA GPU is visible here; use --compute cpu or auto")
    use_cuda = cuda and compute != "cpu"
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if use_cuda and local >= torch.cuda.device_count():
        raise UserError(
            f"more processes than GPUs: there are {torch.cuda.device_count()}; start as many with --nproc-per-node"
        )
    device = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    _keep_quota()
    if use_cuda:
        torch.cuda.set_device(device)
        # The same kernels on every run, so that a resumed run repeats itself as far as the GPU's libraries do.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if count > 1 and not dist.is_initialized():
        if use_cuda:
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
    return Processes(dist.get_rank() if count > 1 else 0, local, count, device)


def _keep_quota() -> None:
    """No more threads than the cores that this process may use; who sets OMP_NUM_THREADS knows better."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


def single_process(command: str) -> None:
    """UserError under torchrun for commands that one process does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"gems-edge {command} runs in one process; start it without torchrun")
