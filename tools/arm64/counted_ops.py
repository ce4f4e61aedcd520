"""Runs on the emulated board: python counted_ops.py GRAPH.onnx [NAME=SIZE …]. Marks warm calls of any graph, and leaves
onnxruntime's profile of them as profile.json.

The time is the number of instructions so far (repeatable.c), so the profile tells which of a clock's marks are the
begin and the end of each node.
"""

import gc
import os
import sys

import numpy as np
from marking import mark, mark_nothing, mark_warm

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # noqa: E402

LOADING, RUN = 5, 20
_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


def feeds(session: onnxruntime.InferenceSession, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Seeded numbers for every input; dimensions that have a name are of that size, 1 if none is given."""
    rng = np.random.default_rng(0)
    made = {}
    for each in session.get_inputs():
        shape = [side if isinstance(side, int) else sizes.get(side, 1) for side in each.shape]
        made[each.name] = rng.random(shape, np.float32).astype(_DTYPES[each.type])
    return made


def main(path: str, *sizes: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = options.enable_mem_reuse = False  # as gems_edge.device.runtime has them
    options.enable_profiling, options.profile_file_prefix = True, "profile"
    mark(LOADING)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fed = feeds(session, {name: int(size) for name, _, size in (text.partition("=") for text in sizes)})
    gc.disable()
    mark_nothing()
    mark_warm(lambda: session.run(None, fed), RUN)
    os.replace(session.end_profiling(), "profile.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
