"""Whether this machine computes with a bundle what the one computed that exported it: small pictures to learn from and
to tell apart, and what came of them there.

The pictures are random fields, kept in the bundle's `selftest.safetensors` and enlarged to its size: no photo of
anybody goes with a bundle, and the file has a few kB for any size. How far answers may differ is measured where they
are made: as far as a change of every pixel by one of 255 levels moves them, and at least LEAST_ALLOWED. Rounding of
another processor is a thousand times smaller, and kernels for int8 differ by more than those for float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy

from gems_edge.device.bundle import Bundle
from gems_edge.device.bundle_files import SELFTEST_FILE
from gems_edge.device.learner import Learner
from gems_edge.errors import UserError

LEAST_ALLOWED = {"fp32": 0.01, "int8": 0.1}  # of a probability
_CLASSES, _FIELDS, _NOISE = 3, 8, 40
_MOST_LOSS = 1e4


@dataclass(frozen=True)
class SelfTest:
    """Fields uint8 [K, 8, 8, C] of K classes to learn from and to tell apart, and what to expect in float32 and, by
    precision, of the queries: probabilities [K, K], and how far they may be off."""

    support: np.ndarray
    queries: np.ndarray
    loss: float  # before the first step
    expected: Mapping[str, np.ndarray]
    allowed: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """How far probabilities are off, and how far they may be, by precision."""

    difference: Mapping[str, float]
    allowed: Mapping[str, float]

    @property
    def text(self) -> str:
        each = (f"{name} off by {off:.1g}, allowed {self.allowed[name]:.1g}" for name, off in self.difference.items())
        return "; ".join(each)


def fields(channels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Support and queries, uint8 [K, 8, 8, C]; a query is the field of its class with noise."""
    generator = np.random.default_rng(20261128)
    support = generator.integers(0, 256, (classes, _FIELDS, _FIELDS, channels))
    noise = generator.integers(-_NOISE, _NOISE + 1, support.shape)
    return support.astype(np.uint8), (support + noise).clip(0, 255).astype(np.uint8)


def enlarged(pictures: np.ndarray, size: int) -> np.ndarray:
    """Fields as images of that size, uint8 [K, S, S, C]."""
    places = np.arange(size) * pictures.shape[1] // size
    return np.ascontiguousarray(pictures[:, places][:, :, places])


def make_selftest(bundle: Bundle) -> bytes:
    """The content of the bundle's self-test: what it answers on this machine."""
    classes = min(_CLASSES, bundle.ways) if bundle.head == "per-class" else _CLASSES
    support, queries = fields(bundle.channels, classes)
    loss, expected = _answers(bundle, enlarged(support, bundle.image_size), queries)
    odd = np.random.default_rng(1).choice((-1, 1), (classes, bundle.image_size, bundle.image_size, bundle.channels))
    other = (enlarged(support, bundle.image_size) + odd).clip(0, 255).astype(np.uint8)
    _, moved = _answers(bundle, other, queries)
    tensors = {"support": support, "queries": queries, "loss": np.array([loss], np.float32)}
    for precision, answers in expected.items():
        spread = float(np.abs(moved[precision] - answers).max())
        allowed = np.array([max(LEAST_ALLOWED[precision], spread)], np.float32)
        tensors |= {f"expected.{precision}": answers, f"allowed.{precision}": allowed}
    return safetensors.numpy.save(tensors)


def run_selftest(bundle: Bundle) -> Outcome | None:
    """Learn and answer; None for a bundle without a self-test, of an earlier gems-edge.

    Raises UserError if the answers are not those that are expected, or the file holds no self-test.
    """
    if SELFTEST_FILE not in bundle.manifest["files"]:
        return None
    test = _read(bundle)
    loss, answers = _answers(bundle, enlarged(test.support, bundle.image_size), test.queries)
    difference = {name: float(np.abs(answers[name] - test.expected[name]).max()) for name in answers}
    wrong = [name for name, off in difference.items() if not off <= test.allowed[name]]
    if wrong:
        raise UserError(
            f"{bundle.path} answers its self-test otherwise than where it was exported: a probability in {wrong[0]} is "
            f"off by {difference[wrong[0]]:.2g} and may be by {test.allowed[wrong[0]]:.2g}; another onnxruntime may "
            "compute right, or export the bundle again"
        )
    if not abs(loss - test.loss) <= test.allowed["fp32"] * max(1.0, test.loss):
        raise UserError(
            f"{bundle.path} answers its self-test otherwise than where it was exported: the loss is {loss:.4g}, not "
            f"{test.loss:.4g}; another onnxruntime may compute right, or export the bundle again"
        )
    return Outcome(difference, test.allowed)


def _answers(bundle: Bundle, support: np.ndarray, queries: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """The loss before the first step, and of each precision that the bundle has what is answered to the queries."""
    losses: list[float] = []
    answers = {}
    for precision in _precisions(bundle):
        learner = Learner(bundle, 1, precision)
        learner.adapt(support, range(len(support)), watch=lambda outputs: losses.append(float(outputs["loss"])))
        answers[precision] = learner.predict(enlarged(queries, bundle.image_size))
    return losses[0], answers


def _precisions(bundle: Bundle) -> tuple[str, ...]:
    return ("fp32", "int8") if bundle.quantisation else ("fp32",)


def _read(bundle: Bundle) -> SelfTest:
    damaged = UserError(f"{bundle.path / SELFTEST_FILE} holds no self-test of this bundle; export the bundle again")
    try:
        tensors = safetensors.numpy.load(bundle.content(SELFTEST_FILE))
        support, queries, loss = tensors["support"], tensors["queries"], tensors["loss"]
        expected = {name: tensors[f"expected.{name}"] for name in _precisions(bundle)}
        allowed = {name: tensors[f"allowed.{name}"] for name in _precisions(bundle)}
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError):
        raise damaged from None
    classes = len(support)
    shape = (classes, _FIELDS, _FIELDS, bundle.channels)
    numbers = (loss, *allowed.values())
    fits = (
        2 <= classes <= 16
        and all(each.shape == shape and each.dtype == np.uint8 for each in (support, queries))
        and all(each.shape == (1,) and each.dtype == np.float32 for each in numbers)
        and all(each.shape == (classes, classes) and each.dtype == np.float32 for each in expected.values())
        and all(np.isfinite(each).all() for each in (*numbers, *expected.values()))
        and abs(float(loss[0])) < _MOST_LOSS
    )
    if not fits:
        raise damaged
    return SelfTest(
        support, queries, float(loss[0]), expected, {name: float(each[0]) for name, each in allowed.items()}
    )
