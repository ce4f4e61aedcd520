"""A bundle's graphs, loaded and checked: what they are fed and give is what the manifest says."""

import numpy as np

from gems_edge.device.bundle import FEATURES, HEAD, IMAGES, TRUNK_FILE, Bundle
from gems_edge.device.int8 import INT8_FILE, TRUNK_INT8_FILE, Quantisation, refreshed
from gems_edge.device.onnxfile import initializers, with_values
from gems_edge.device.runtime import Session
from gems_edge.errors import UserError

PRECISIONS = ("fp32", "int8")
Arrays = dict[str, np.ndarray]  # by name


def trunk_session(bundle: Bundle, threads: int | None, precision: str = "fp32") -> Session:
    """The trunk of a bundle that has one, loaded; in int8 if it was exported so."""
    quantised = precision == "int8" and TRUNK_INT8_FILE in bundle.manifest["files"]
    file = TRUNK_INT8_FILE if quantised else TRUNK_FILE
    what, model = str(bundle.path / file), bundle.model(file)
    initializers(model, what)  # refuses what is no ONNX and what reads other files
    session = Session(model, what, threads=threads)
    session.require([IMAGES], [FEATURES])
    return session


def adapt_session(bundle: Bundle, threads: int | None) -> Session:
    """The adaptation graph, loaded and checked against the manifest."""
    what = str(bundle.path / "adapt.onnx")
    model = bundle.model("adapt.onnx")
    initializers(model, what)  # refuses what is no ONNX and what reads other files
    session = Session(model, what, threads=threads, channel_blocks=False)
    told = bundle.first_step(True)
    session.require([bundle.step_input, "targets", *bundle.adapted, *HEAD, *bundle.carried, *told], bundle.step_outputs)
    return session


def predict_session(bundle: Bundle, weights: Arrays | None, threads: int | None, precision: str = "fp32") -> Session:
    """The predict graph with `weights` (adapted backbone, statistics; None: nothing was taught) in place of the start
    values; the head is fed."""
    changed = {name: value for name, value in (weights or {}).items() if name not in HEAD}
    if precision == "int8":
        what = str(bundle.path / INT8_FILE)
        model = refreshed(bundle.model(INT8_FILE), _quantisation(bundle), bundle.weights | changed, what)
    else:
        what = str(bundle.path / "predict.onnx")
        model = with_values(bundle.model("predict.onnx"), changed, what)
    session = Session(model, what, threads=threads)
    session.require([IMAGES, *HEAD], ["logits"])
    return session


def check_precision(bundle: Bundle, precision: str) -> str:
    """`precision` itself; UserError unless the bundle answers in it."""
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "int8":
        _quantisation(bundle)
    return precision


def _quantisation(bundle: Bundle) -> Quantisation:
    if bundle.quantisation is None:
        raise UserError(f"{bundle.path} has no quantised graph; export it again with gems-edge export --int8")
    return bundle.quantisation
