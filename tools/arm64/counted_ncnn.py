"""Runs on the emulated board: python counted_ncnn.py DIRECTORY SIDE. Marks a warm call of ncnn on the directory's
network.param, with ncnn's package from the directory's `wheel`; every weight is 0. Options are those of benchncnn."""

import gc
import sys

import numpy as np
from marking import mark_nothing, mark_warm

RUN = 20


def main(path: str, side: str) -> None:
    sys.path.insert(0, f"{path}/wheel")
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    if net.load_param(f"{path}/network.param") or net.load_model(ncnn.DataReaderFromEmpty()):
        raise SystemExit("ncnn does not load this network")
    images = ncnn.Mat(np.full((3, int(side), int(side)), 0.5, np.float32))

    def call() -> None:
        extractor = net.create_extractor()
        extractor.input("images", images)
        code, result = extractor.extract("result")
        if code or not result.w:
            raise SystemExit(f"ncnn stops with {code}")

    gc.disable()
    mark_nothing()
    mark_warm(call, RUN)


if __name__ == "__main__":
    main(*sys.argv[1:])
