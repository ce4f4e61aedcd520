"""Peak memory of fresh processes, as the board's commands run, against its prediction.

  python tools/check_memory.py NAME.gems … [--images 5 --images 50]
  python tools/check_memory.py --grid DIR [--network mobilenet-v2@0.35-96 …]

For each bundle VmHWM of fresh processes that predict one image, or adapt to its ways × shots images (or to --images),
and what gems_edge.predict.memory says from the manifest. --grid makes bundles of untrained networks in DIR: every
backbone at 84 pixels, Conv-4 at half its width and at 28 pixels too, 1 and 5 shots, every --memory. The exit code is 1
if a row is off by more than --tolerance.
"""

import json
import sys
from pathlib import Path

import click

from gems_edge.device.bundle import read_bundle
from gems_edge.device.measure import fresh_memory
from gems_edge.predict.memory import predict_memory


@click.command(help=__doc__)
@click.argument("bundles", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--grid", type=click.Path(path_type=Path), metavar="DIR", help="Make bundles there and measure them.")
@click.option(
    "--network", "networks", multiple=True, help="With --grid: only these (BACKBONE@WIDTH_MULTIPLIER-PIXELS)."
)
@click.option("--images", multiple=True, type=int, help="Support images; the bundle's own number if left out.")
@click.option("--threads", default=1, show_default=True)
@click.option("--repeats", default=2, show_default=True, help="Processes a row; they differ by less than 1 MB.")
@click.option("--tolerance", default=10.0, show_default=True, help="Per cent.")
@click.option("--json", "as_json", is_flag=True)
def main(bundles, grid, networks, images, threads, repeats, tolerance, as_json):
    if not as_json:
        print(f"{'bundle':32} {'what':8} images  measured MB  predicted MB   error  interval")
    paths = list(bundles)
    if grid:
        from memory_bundles import NETWORKS
        from memory_bundles import grid as make

        paths += make(grid, networks or NETWORKS)
    rows, seen = [], set()
    for path in paths:
        bundle = read_bundle(path)
        predict = bundle.manifest["files"]["predict.onnx"]["sha256"]
        jobs = [("adapt", count) for count in images or [bundle.ways * bundle.shots]]
        jobs = jobs if predict in seen else [("predict", 1), *jobs]  # the grid's bundles of a network predict alike
        seen.add(predict)
        for what, count in jobs:
            runs = sorted(run["peak_mb"] for run in fresh_memory(path, what, count, threads, repeats))
            predicted, measured = predict_memory(bundle.manifest["cost"], count, what), runs[len(runs) // 2]
            error = 100 * (predicted.value / measured - 1)
            rows.append({
                "bundle": path.name, "what": what, "images": count, "threads": threads, "measured_mb": measured,
                "predicted_mb": predicted.value, "interval_mb": [predicted.low, predicted.high],
                "error_percent": error,
            })  # fmt: skip
            if not as_json:
                print(
                    f"{path.name:32} {what:8} {count:6}  {measured:11.1f}  {predicted.value:12.1f}  {error:+5.1f} %  "
                    f"{predicted.interval_text('.0f')}",
                    flush=True,
                )
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        errors = [abs(row["error_percent"]) for row in rows]
        print(f"{len(rows)} rows, mean error {sum(errors) / len(errors):.1f} %, largest {max(errors):.1f} %")
    sys.exit(any(abs(row["error_percent"]) > tolerance for row in rows))


if __name__ == "__main__":
    main()
