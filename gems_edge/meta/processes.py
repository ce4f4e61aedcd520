"""Training on several processes under torchrun: tasks are split over ranks, meta-gradients summed."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gems_edge.errors import UserError


@dataclass(frozen=True)
class Processes:
    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def tasks(self, total: int) -> range:
        """The tasks of this process."""
        return range(self.rank, total, self.count)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over all processes, in place, as one message."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def start_processes(device: str) -> Processes:
    """This process's place; joins the group when torchrun started it (nccl on GPUs, gloo on CPUs)."""
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise UserError("--device cuda: no CUDA GPU is visible here; use --device cpu or auto")
    use_cuda = cuda and device != "cpu"
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if count > 1 and not dist.is_initialized():
        if use_cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if use_cuda else "gloo")
    rank = dist.get_rank() if count > 1 else 0
    return Processes(rank, count, torch.device("cuda", local) if use_cuda else torch.device("cpu"))
