"""What BMP and MMSUP cost over MAML, per meta-iteration: `python tools/bench_gems.py --data a,b --data-root DIR`.

Whole outer steps of the trainer (episodes, inner loops, meta-gradient, Adam) of one config, the methods taking turns:
each round times `--block` steps of every method, in an order that turns; figures are medians over rounds, and of the
rounds' ratios to MAML. Before that all start from the same weights and must compute the same: an untrained BMP, and an
MMSUP that keeps everything, are MAML.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from gems_edge.data.shots import ONE_SHOT
from gems_edge.data.specs import split_specs
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.processes import start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.start import Start, resolve
from gems_edge.meta.train import Trainer

METHODS = {
    "maml": {"method": "maml"},
    "bmp": {"method": "bmp"},
    "bmp, rate a layer": {"method": "bmp", "adapter": AdapterConfig(rate="layer")},
    "mmsup": {"method": "mmsup"},
    "mmsup, everything kept": {"method": "mmsup", "adapter": AdapterConfig(sparsity=(0.0,))},
}


def first_step(trainer: Trainer) -> list[float]:
    tally = trainer.tally()
    norm = trainer.step(tally)
    trainer.iteration += 1
    return [*tally.means(), float(norm)]


@click.command()
@click.option("--data", default="glyphs", show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path))
@click.option("--image-size", default=28, show_default=True)
@click.option("--width", default=32, show_default=True, help="Channels of the first layer.")
@click.option("--steps", default=2, show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--block", default=3, show_default=True, help="Outer steps of a method in a round.")
def main(data, data_root, image_size, width, steps, rounds, block):
    keep_freed_memory()
    config = TrainConfig(
        data=split_specs(data), image_size=image_size, widths=(width,), steps=steps, inner_lr=0.1, head="per-class",
        normalization="transductive", shots=ONE_SHOT, queries=5, compute="cpu", iterations=10_000,
    )  # fmt: skip
    config, images = resolve(config, data_root)
    cpu = start_processes("cpu")
    trainers = {
        name: Trainer(Run(tempfile.mkdtemp()), Start(replace(config, **settings), images, cpu))
        for name, settings in METHODS.items()
    }
    firsts = {name: first_step(trainer) for name, trainer in trainers.items()}
    for name in ("bmp", "bmp, rate a layer", "mmsup, everything kept"):
        for ours, maml in zip(firsts[name][:2], firsts["maml"]):
            assert abs(ours - maml) < 1e-4, (name, firsts[name], firsts["maml"])
    times: dict[str, list[float]] = {name: [] for name in trainers}
    names = list(trainers)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            trainer, tally, started = trainers[name], trainers[name].tally(), time.perf_counter()
            for _ in range(block):
                trainer.step(tally)
                trainer.iteration += 1
            times[name].append((time.perf_counter() - started) / block)
    document = {
        "data": data,
        "image_size": image_size,
        "width": width,
        "steps": steps,
        "rounds": rounds,
        "methods": {},
    }
    for name, found in times.items():
        ratios = sorted(own / maml for own, maml in zip(found, times["maml"]))
        document["methods"][name] = {
            "ms_per_iteration": round(1e3 * statistics.median(found), 2),
            "times_maml": round(statistics.median(ratios), 3),
            "times_maml_p10_p90": [round(ratios[len(ratios) // 10], 3), round(ratios[-1 - len(ratios) // 10], 3)],
        }
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
