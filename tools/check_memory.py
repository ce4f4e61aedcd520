"""Peak resident memory of a graph's runs against the liveness of its activations.

  python tools/check_memory.py NAME.gems/adapt.onnx --images 5 25

For each number of images two fresh processes run the graph ten times with arena and memory pattern off: one with
glibc's default heap, one that maps every block above 128 KiB afresh (M_MMAP_THRESHOLD fixed by mallopt).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CHILD = """
import ctypes, json, sys
path, dims, threshold = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
if threshold:
    ctypes.CDLL(None).mallopt(-3, threshold)
import numpy as np
from gems_edge.device.runtime import onnxruntime as ort
def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024
options = ort.SessionOptions()
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
options.intra_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
feeds = {i.name: np.random.rand(*[dims.get(d, d) for d in i.shape]).astype(np.float32) for i in inputs}
before = status("VmRSS") - sum(feed.nbytes for feed in feeds.values())
session.run(None, feeds)
first = status("VmHWM") - before
for _ in range(9):
    session.run(None, feeds)
print(json.dumps({"before": before, "first": first, "tenth": status("VmHWM") - before}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[5, 25])
    parser.add_argument("--classes", type=int, default=5)
    arguments = parser.parse_args()

    from gems_edge.cost.graph import describe

    print("images  heap     process before  liveness  first run  tenth run  tenth/liveness   (MB)")
    for images in arguments.images:
        dims = {"images": images, "classes": arguments.classes}
        live = describe(arguments.graph, dims)["peak_bytes"]
        for heap, threshold in (("default", 0), ("mapped", 1 << 17)):
            command = [sys.executable, "-c", CHILD, str(arguments.graph), json.dumps(dims), str(threshold)]
            seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row = [seen["before"], live, seen["first"], seen["tenth"]]
            cells = "".join(f"{value / 1e6:11.1f}" for value in row)
            print(f"{images:6}  {heap:8} {cells}   {seen['tenth'] / live:10.2f}")


if __name__ == "__main__":
    main()
