"""The only place that imports onnxruntime: quiet, sized for a small board."""

import contextlib
import ctypes
import os
import platform
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from gems_edge.control_groups import available_cores
from gems_edge.errors import MachineError, UserError
from gems_edge.files import readable_text

onnxruntime.set_default_logger_severity(4)  # errors arrive as exceptions; warnings are not the user's
VERSION: str = onnxruntime.__version__


def _register_arena() -> None:
    """The memory that all sessions of this process share: an arena that grows by what is asked for.

    Measured on an adaptation step (Conv-4, 64 filters, 84×84, 25 images, `--memory low`, onnxruntime 1.31.1, one x86
    core), peak of the first and of the fourth run: so 109 and 109 MB; growing by powers of two, the default, 108 and
    113; without an arena 115 and 119, and with `--memory balanced` slower by a tenth. Memory patterns are off: they
    plan every tensor of a run ahead and hold all of them at once. So is memory reuse: it keeps the room of a tensor
    that is dead for a later one of the same shape, and from all others meanwhile (ResNet-12, 84×84, 5 images, `--memory
    fast`: a peak of 443 MB with it and 419 without; tensors still overwrite inputs that die).
    """
    same_as_requested = 1
    arena = onnxruntime.OrtArenaCfg(
        {
            "max_mem": 0,
            "arena_extend_strategy": same_as_requested,
            "initial_chunk_size_bytes": 4096,
            "max_dead_bytes_per_chunk": -1,
        }
    )
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, arena)


_register_arena()


def _return_freed_memory() -> None:
    """Large blocks from the system one by one, and back to it when they are freed, where malloc is glibc's.

    By default every large block that is freed makes glibc keep the next ones of its size: loading a graph then leaves
    the process with its temporary copies of the weights. Prediction with ResNet-12 (32 MB of weights) on one x86 core:
    peak 224 MB and 136 MB after it, instead of 252 … 273 and 219, for a load that takes 0.1 s longer (0.4 s). Runs are
    not slower: they allocate from the arena.
    """
    with contextlib.suppress(OSError, AttributeError):
        mmap_threshold, block = -3, 128 << 10  # where glibc begins, before it adjusts itself
        ctypes.CDLL(None).mallopt(mmap_threshold, block)


_return_freed_memory()


# x86 processors without VNNI saturate sums of uint8 × int8 products. onnxruntime avoids that where it is told to, at
# twice the time of a quantised graph, whether the processor needs it or not.
_SATURATES = platform.machine() in ("x86_64", "AMD64") and "vnni" not in readable_text("/proc/cpuinfo")


# onnxruntime runs the first on every graph and the second on what the processor takes.
TRANSPOSE_OPTIMIZERS = frozenset({"TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"})


# Where the first graph was loaded. A process that is forked later has onnxruntime's memory and locks as they were at
# that moment, and none of its threads: calls wait for these for ever.
_process: int | None = None
_sessions: "weakref.WeakSet[onnxruntime.InferenceSession]" = weakref.WeakSet()


def _keep_sessions() -> None:
    """Let no session of the process that forked this one ever end here: its end waits for threads that are not here."""
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


os.register_at_fork(after_in_child=_keep_sessions)


def _within_quota() -> int:
    """Threads for as many cores as this process may use, where that is fewer than the machine has; 0: onnxruntime's
    own choice, a thread bound to each core."""
    cores = available_cores()
    return cores if cores < (os.cpu_count() or 1) else 0


class Session:
    """A loaded graph: named arrays in, named arrays out."""

    def __init__(self, model: bytes, what: str, *, threads: int | None = None, channel_blocks: bool = True):
        """Load `model`, which messages name `what`, on the CPU with `threads` threads (None: one per core that this
        process may use).

        `channel_blocks`: maps may be laid out in blocks of channels (on x86), which convolutions with constant weights
        like. For a graph whose weights are fed it brings copies to and fro around the pools, and no time (`gems-edge
        adapt` of ResNet-12, 84×84, 5 images: 280 MB with it, 273 without). Nor are such a graph's Transposes moved and
        merged: they turn kernels in forms that are fast (export/convolutions.py). Raises UserError, naming `what`, for
        bytes that onnxruntime cannot load.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False
        options.enable_mem_reuse = False
        unwanted = None if channel_blocks else TRANSPOSE_OPTIMIZERS
        if not channel_blocks:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.inter_op_num_threads = 1
        if _SATURATES:
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.intra_op_num_threads = threads or _within_quota()
        # Threads wait for the next operation of a run by spinning, which pays, but not for the next run: a camera of 5
        # photos a second took 20.4 % of a core so and 0.3 % now, on 2 x86 cores, at the same latency.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.what = what
        global _process
        _process = _process or os.getpid()
        self._refuse_fork()
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted
            )
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise self._explain(error, "cannot be loaded") from None
        _sessions.add(self._session)
        # The wrapper keeps the file's bytes for a change of providers, of which there is none.
        self._session._model_bytes = None
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.overridable = tuple(item.name for item in self._session.get_overridable_initializers())
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def require(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Raises UserError unless the graph can be fed exactly `inputs` and gives at least `outputs`."""
        accepted = set(self.inputs) | set(self.overridable)
        missing = [name for name in inputs if name not in accepted] + [
            name for name in outputs if name not in self.outputs
        ]
        surplus = [name for name in self.inputs if name not in inputs]
        if missing or surplus:
            reason = f"lacks {missing[0]!r}" if missing else f"asks for the unknown input {surplus[0]!r}"
            raise UserError(
                f"{self.what} is not the graph that its manifest describes: it {reason}; export the bundle again"
            )

    def run(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], *, last: bool = False) -> list[np.ndarray]:
        """The named `outputs`. Every node runs whatever is asked for: onnxruntime 1.31.1 ignores
        `only_execute_path_to_fetches` (387 kernels of an adaptation step with it and without).

        `last`: none follows soon, so what the arena has left goes back to the system.

        Raises UserError for feeds that do not fit and in a process that was forked meanwhile, MachineError when memory
        runs out.
        """
        self._refuse_fork()
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        if last:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            tensors: list[np.ndarray] = self._session.run(list(outputs), dict(feeds), options)
            return tensors
        except Exception as error:
            raise self._explain(error, "cannot be run") from None

    def _refuse_fork(self) -> None:
        if _process != os.getpid():
            raise UserError(
                f"{self.what} cannot be used in a process that was forked after onnxruntime had loaded a graph: its "
                "threads are not there; fork before the first photo, or start processes by spawn"
            )

    def _explain(self, error: Exception, failed: str) -> Exception:
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "bad_alloc" in message or "Failed to allocate" in message:
            return MachineError(f"out of memory in {self.what}; give fewer or smaller images, or close other programs")
        return UserError(
            f"{self.what} {failed} by onnxruntime {VERSION} ({message[:160]}); export or copy the bundle again"
        )


def check_threads(threads: int | None) -> int | None:
    """`threads` itself; UserError unless it is None or at least 1."""
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UserError(f"threads must be a whole number of at least 1, not {threads!r}")
    return threads
