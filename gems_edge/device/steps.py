"""Gradient steps from a bundle's start, on adapt.onnx."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from gems_edge.device.bundle import HEAD, Bundle
from gems_edge.device.runtime import Session
from gems_edge.device.sessions import Arrays, adapt_session
from gems_edge.errors import UserError

OnStep = Callable[[int, float, float], None]  # called after each step with its number, loss and seconds
Watch = Callable[[Arrays], None]  # called with the outputs of each run of adapt.onnx, by name: a step's, and where no
# step is taken those of the one run


def take_steps(
    bundle: Bundle, feeds: Arrays, steps: int, threads: int | None, on_step: OnStep | None, watch: Watch | None
) -> tuple[Arrays, list[float], list[float]]:
    """Take `steps` steps from the start: the tensors of a state, and each step's loss (before it) and seconds."""
    session = adapt_session(bundle, threads)
    weights = bundle.start_weights(feeds["targets"].shape[1], bundle.carried)
    carried = {name: weights.pop(name) for name in bundle.carried}
    fed = (*bundle.adapted, *(name for name in HEAD if name not in bundle.adapted))

    def run(outputs: Sequence[str], step: int, first: bool = False) -> Arrays:
        """`step`: the number of steps after which what it gives counts."""
        feed = bundle.first_feed(first) | carried | {name: weights[name] for name in fed}
        return _run(session, outputs, feeds | feed, step, step == steps)

    losses, seconds = [], []
    for step in range(1, steps + 1):
        before = time.perf_counter()
        named = run(bundle.step_outputs, step, step == 1)
        weights |= _rows(session.what, named, weights) if step == 1 else {}
        for name in bundle.adapted:  # copied, so that what the graph gave is free for its next run
            np.copyto(weights[name], _fitting(session.what, f"updated.{name}", named, weights[name]))
        carried = {name: _fitting(session.what, f"next.{name}", named, value).copy() for name, value in carried.items()}
        weights |= {name: named[name].copy() for name in bundle.statistics}
        losses.append(float(named["loss"]))
        seconds.append(time.perf_counter() - before)
        if watch:
            watch(named)
        del named
        if on_step:
            on_step(step, losses[-1], seconds[-1])
    if not steps:
        named = run(bundle.start_outputs, 0, True)
        weights |= _rows(session.what, named, weights) | {name: named[name] for name in bundle.statistics}
        if watch:
            watch(named)
    elif bundle.statistics and set(bundle.adapted) - set(HEAD):  # under the weights as they now are
        weights |= run(bundle.statistics, steps)
    return {name: weights[name] for name in (*bundle.learned, *bundle.statistics)}, losses, seconds


def _rows(what: str, outputs: Arrays, weights: Arrays) -> Arrays:
    """The rows that a prototype head made of the support set."""
    names = [name for name in HEAD if f"start.{name}" in outputs]
    return {name: _fitting(what, f"start.{name}", outputs, weights[name]).copy() for name in names}


def _fitting(what: str, output: str, outputs: Arrays, like: np.ndarray) -> np.ndarray:
    """That output of the graph `what`. UserError unless it has the shape and type of `like`, whose place it takes."""
    value = outputs[output]
    if (value.shape, value.dtype) != (like.shape, like.dtype):
        raise UserError(
            f"{what} gives {output} as {value.dtype} {list(value.shape)}, not {like.dtype} {list(like.shape)}; export "
            "the bundle again"
        )
    return value


def _run(session: Session, outputs: Sequence[str], feeds: Arrays, step: int, last: bool) -> Arrays:
    """The outputs by name; UserError if the numbers at `step` are not finite."""
    values = dict(zip(outputs, session.run(outputs, feeds, last=last)))
    if not all(np.isfinite(value).all() for value in values.values()):
        loss = f" (loss {float(values['loss']):g})" if "loss" in values else ""
        raise UserError(f"adaptation diverged at step {step}{loss}; use fewer steps or other images")
    return values
