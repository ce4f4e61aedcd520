"""A bundle's graphs, loaded and checked: what they are fed and give is what the manifest says."""

import numpy as np

from gems_edge.device.bundle import FEATURES, HEAD, IMAGES, Bundle
from gems_edge.device.bundle_files import TRUNK_FILE
from gems_edge.device.inputs import network_input
from gems_edge.device.int8 import INT8_FILE, PRECISIONS, TRUNK_INT8_FILE, Quantisation, refreshed
from gems_edge.device.onnxfile import initializers, with_values
from gems_edge.device.runtime import Session
from gems_edge.errors import UserError

Arrays = dict[str, np.ndarray]  # by name


def trunk_session(bundle: Bundle, threads: int | None, precision: str = "fp32") -> Session:
    """The trunk of a bundle that has one, loaded."""
    file = TRUNK_INT8_FILE if precision == "int8" else TRUNK_FILE
    what, model = str(bundle.path / file), bundle.content(file)
    initializers(model, what)  # refuses what is no ONNX and what reads other files
    session = Session(model, what, threads=threads)
    session.require([IMAGES], [FEATURES])
    return session


def adapt_session(bundle: Bundle, threads: int | None) -> Session:
    """The adaptation graph, loaded and checked against the manifest."""
    what = str(bundle.path / "adapt.onnx")
    model = bundle.content("adapt.onnx")
    initializers(model, what)  # refuses what is no ONNX and what reads other files
    session = Session(model, what, threads=threads, channel_blocks=False)
    inputs = (bundle.step_input, "targets", *bundle.adapted, *HEAD, *bundle.carried, *bundle.first_feed(True))
    session.require(inputs, bundle.step_outputs)
    return session


def predict_session(bundle: Bundle, weights: Arrays, threads: int | None, precision: str = "fp32") -> Session:
    """The predict graph with what teaching changed in `weights` (adapted backbone, statistics) in place of the start
    values; the head is fed, and what `weights` holds of it counts for nothing here."""
    changed = {name: value for name, value in weights.items() if name not in HEAD}
    if precision == "int8":
        what, quantisation = str(bundle.path / INT8_FILE), _quantisation(bundle).made_of(changed)
        start = bundle.tensors(name for name in quantisation.needed if name not in changed)
        model = refreshed(bundle.content(INT8_FILE), quantisation, start | changed, what)
    else:
        what = str(bundle.path / "predict.onnx")
        model = with_values(bundle.content("predict.onnx"), changed, what)
    session = Session(model, what, threads=threads)
    session.require([IMAGES, *HEAD], ["logits"])
    return session


def answered(session: Session, pixels: np.ndarray, head: Arrays) -> np.ndarray:
    """The predict graph's answer to images [N, S, S, C], by the head that is fed: float [N, classes].

    Raises UserError for what no predict graph of these classes gives.
    """
    [logits] = session.run(["logits"], {IMAGES: network_input(pixels), **head})
    shape = (len(pixels), len(head[HEAD[1]]))
    if not isinstance(logits, np.ndarray) or logits.dtype.kind != "f" or logits.shape != shape:
        found = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, np.ndarray) else type(logits).__name__
        raise UserError(f"{session.what} answers with {found}, not floats {list(shape)}; export the bundle again")
    return logits


def check_precision(bundle: Bundle, precision: str | None) -> str:
    """`precision` itself, None: the bundle's own; UserError unless the bundle answers in it."""
    if precision is None:
        return bundle.precision
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "int8":
        _quantisation(bundle)
    return precision


def _quantisation(bundle: Bundle) -> Quantisation:
    if bundle.quantisation is None:
        raise UserError(f"{bundle.path} has no quantised graph; export it again with gems-edge export --int8")
    return bundle.quantisation
