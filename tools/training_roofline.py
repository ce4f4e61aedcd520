"""What an iteration asks of the machine and what the machine can do: FLOPs, bytes, their peaks, a GPU's utilisation."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that operations read and write, each operation alone, as if nothing stayed in a cache."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        result = operation(*arguments, **(named or {}))
        read = _tensors((arguments, named))
        written = _tensors(result)
        if not _moves_nothing(operation, read, written):
            self.bytes += sum(map(_bytes, read + written))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """An expanded tensor has more entries than are stored."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _moves_nothing(operation: Any, read: list[Tensor], written: list[Tensor]) -> bool:
    """Of views and of memory without content."""
    if operation._schema.is_mutable:
        return False
    if operation._schema.name.removeprefix("aten::").startswith(("empty", "new_empty")):
        return True
    places = {tensor.untyped_storage().data_ptr() for tensor in read if tensor.numel()}
    return any(tensor.untyped_storage().data_ptr() in places for tensor in written if tensor.numel())


def demand(iterate: Callable[[], Any]) -> dict[str, int]:
    """FLOPs (of convolutions and matrix products) and bytes of one call.

    It must do its work on the calling thread: modes are a thread's own.
    """
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        iterate()
    return {"flops": flops.get_total_flops(), "bytes": traffic.bytes}


def peaks(device: str) -> dict[str, float]:
    """FLOP/s of a large float32 product of matrices and bytes/s, read and written, of copying a large tensor."""
    side, length = (2048, 2**26) if device == "cpu" else (8192, 2**29)
    left, right = torch.rand(2, side, side, device=device)
    source = torch.ones(length, device=device)
    target = torch.zeros_like(source)
    return {
        "flops_per_second": 2 * side**3 / _least_seconds(lambda: left @ right, device),
        "bytes_per_second": 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), device),
    }


def _least_seconds(call: Callable[[], Any], device: str) -> float:
    call()
    return min(seconds_of(call, device) for _ in range(5))


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Of one call, on a GPU until its work there is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def utilisation(iterate: Callable[[], Any], seconds: float) -> float | None:
    """Mean percentage of the time in which a kernel ran on the GPU, while calls follow each other for so many seconds.

    As nvidia-smi samples it; None where that tool is missing or silent.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    identity = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    command = [tool, f"--id=GPU-{identity.removeprefix('GPU-')}", "--query-gpu=utilization.gpu"]
    command += ["--format=csv,noheader,nounits", "--loop-ms=200"]
    deadline = time.perf_counter() + seconds
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sampling:
        while time.perf_counter() < deadline:
            seconds_of(iterate, "cuda")
        sampling.terminate()
        said = sampling.stdout.read().split("\n")
    samples = []
    for line in said[2:]:  # the first may still look at the time before
        with contextlib.suppress(ValueError):
            samples.append(float(line))
    return sum(samples) / len(samples) if samples else None
