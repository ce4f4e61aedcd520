"""Peak memory of fresh processes, as the board's commands run, against its prediction.

  python tools/check_memory.py NAME.gems … --images 5 25

For each bundle and number of images: VmHWM of fresh processes that adapt (and of one that predicts a single image), the
activations' liveness and the constants from the manifest, and the prediction of gems_edge.cost.memory. The column
`growth` is (peak − process − constants) / liveness: what ACTIVATIONS in cost/memory.py is taken from.
"""

from pathlib import Path

import click

from gems_edge.cost.memory import CONSTANTS, PROCESS_MB, predict_memory
from gems_edge.device.bundle import read_bundle
from gems_edge.device.measure import fresh_memory


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--images", multiple=True, type=int, default=(5, 25), show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(bundles, images, threads):
    print(f"{'bundle':24} {'what':8} images  measured  liveness  growth  predicted (interval), MB")
    for path in bundles:
        cost = read_bundle(path).manifest["cost"]
        for what, count in (("predict", 1), *(("adapt", count) for count in images)):
            runs = sorted(run["peak_mb"] for run in fresh_memory(path, what, count, threads))
            measured = runs[len(runs) // 2]
            if what == "predict":
                live, constants = cost["predict"]["peak_bytes"], cost["predict"]["constant_bytes"]
            else:
                peak = cost["adapt_peak"]
                live = peak["fixed_bytes"] + count * peak["bytes_per_image"]
                constants = cost["adapt_step"]["constant_bytes"]
            growth = (measured - PROCESS_MB[1] - CONSTANTS[1] * constants / 1e6) / (live / 1e6)
            made = predict_memory(cost, count, what)
            print(
                f"{path.name:24} {what:8} {count:6}  {measured:8.1f}  {live / 1e6:8.1f}  {growth:6.2f}  "
                f"{made['mb']:.1f} ({made['low_mb']:.1f} … {made['high_mb']:.1f})"
            )


if __name__ == "__main__":
    main()
