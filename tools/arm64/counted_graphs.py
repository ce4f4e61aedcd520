"""Runs on the emulated board: python counted_graphs.py BUNDLE. Marks what count.c counts between: a warm call of each
graph on one image."""

import gc
import sys

from marking import mark_nothing, mark_warm

from gems_edge.device.bundle import read_bundle
from gems_edge.device.int8 import PRECISIONS
from gems_edge.device.measure import predict_call, trunk_call

# Of (graph, precision); the mark behind the call is one more.
MARKS = {
    (graph, precision): 20 + 10 * number
    for number, (graph, precision) in enumerate((graph, each) for graph in ("predict", "trunk") for each in PRECISIONS)
}


def main(path: str) -> None:
    bundle = read_bundle(path)
    gc.disable()
    mark_nothing()
    for (graph, precision), number in MARKS.items():
        if (precision == "int8" and bundle.quantisation is None) or (graph == "trunk" and bundle.trunk is None):
            continue
        call = (predict_call if graph == "predict" else trunk_call)(bundle, 1, precision)
        mark_warm(call, number)


if __name__ == "__main__":
    main(sys.argv[1])
