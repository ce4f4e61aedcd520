"""gems-edge adapt: teach a bundle new classes from a folder of photos."""

import click

from gems_edge.cli.common import emit, json_option, say


@click.command()
@click.argument("bundle", type=click.Path())
@click.option(
    "--support",
    required=True,
    type=click.Path(),
    metavar="DIR",
    help="Photos as DIR/CLASS/image, one folder per class.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Gradient steps; the bundle's own number if left out.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; one per core if left out.")
@click.option(
    "-o", "--output", "state", required=True, type=click.Path(), metavar="STATE", help="Where to keep what is learned."
)
@json_option
def command(bundle, support, steps, threads, state, as_json):
    """Teach BUNDLE new classes from a folder of photos.

    A STATE that exists already keeps its last content in one slot while the new one is written to the other.

    \b
    Example:
      gems-edge adapt plates.gems --support photos -o mine.state
    """
    from pathlib import Path

    from gems_edge.device import Learner
    from gems_edge.device.measure import summarise
    from gems_edge.device.state import check_destination, state_bytes
    from gems_edge.device.support import read_support
    from gems_edge.predict.memory import predict_memory
    from gems_edge.process_memory import peak_rss_mb

    learner = Learner.load(bundle, threads)
    check_destination(state, learner.bundle.hash)
    shown = read_support(support, learner.bundle)
    total = steps or learner.bundle.steps
    counts = ", ".join(f"{name} ({shown.labels.count(name)})" for name in shown.classes)
    say(f"{len(shown.classes)} classes from {len(shown.labels)} images: {counts}")

    def on_step(step: int, loss: float, seconds: float) -> None:
        say(f"step {step}/{total}  loss {loss:.4f}  {1e3 * seconds:.1f} ms")

    adaptation = learner.adapt(shown.images, shown.labels, steps, on_step)
    saved = learner.save(state)
    times = summarise([1e3 * seconds for seconds in adaptation.seconds], {"p50": 0.5, "p90": 0.9}).quantiles
    measured, predicted = peak_rss_mb(), predict_memory(learner.bundle.manifest["cost"], adaptation.images, "adapt")
    if as_json:
        emit({
            "state": str(Path(state)),
            "generation": saved.generation,
            "classes": list(adaptation.classes),
            "images": adaptation.images,
            "steps": adaptation.steps,
            "loss": list(adaptation.losses),
            "ms_per_step": {name: round(value, 3) for name, value in times.items()},
            "peak_rss_mb": measured and round(measured, 1),
            "predicted_peak_mb": round(predicted.value, 1),
            "state_bytes": state_bytes(state),
        })  # fmt: skip
        return
    memory = f"{predicted.value_text('.0f')} predicted ({predicted.interval_text('.0f')})"
    if measured:
        memory = f"{measured:.0f} MB measured, {memory}"
    click.echo(f"{state}: generation {saved.generation}, {state_bytes(state)} bytes")
    click.echo(f"{times['p50']:.1f} ms per step; peak memory {memory}")
    click.echo(f"next: gems-edge predict {bundle} --state {state} IMAGE…")
