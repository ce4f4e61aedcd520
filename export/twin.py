"""torch beside the board: every step and the answers of an episode again, from the weights that the board has.

A network may amplify rounding from step to step (an untrained one at a high rate does), so where two computations lead
says nothing of them; that each step of one is a step of the other from the same weights does.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gems_edge.device.bundle import FEATURES
from gems_edge.export.graphs import RULE
from gems_edge.export.source import MetaModel
from gems_edge.meta.inner import Support, classify, detached, inner_step
from gems_edge.meta.rules.base import Rule, State
from gems_edge.models.fewshot import FewShotModel, Weights, body, initial_weights
from gems_edge.models.head import prototypes
from gems_edge.models.split import Trunk

Kind = Literal["update", "forward", "decision", "answer"]
Arrays = dict[str, np.ndarray]
ByTorch = Callable[[FewShotModel, Weights, Support], Arrays]
# Outputs of adapt.onnx, and what becomes of those of predict.onnx.
LOSS, START, UPDATED, NEXT, ANSWER = "loss", "start.", "updated.", "next.", "probabilities"
EPSILON = float(np.finfo(np.float32).eps)

TOLERANCES: dict[Kind, float] = {
    "update": 1e-3,  # of a tensor's step, as a share of its length
    "forward": 3e-5,  # of features, a prototype head's rows, the loss and a layer's statistics, as a share of them
    "decision": 1e-3,  # of what a rule carries to the next step (shares, rates): means over millions of weights round
    "answer": 1e-3,  # of a query's probabilities after all steps
}
# A tensor's step that is shorter than so much of the whole network's is rounding, and a loss below it is gone.
SHORT = 1e-3
# Where they differ by more than the tolerance, torch is asked what rounding makes of its own result: with weights and
# images that differ by NOISE (what a layer's sums round off in float32), up to DRAWS times. MARGIN times the largest
# change is allowed.
DRAWS, NOISE, MARGIN = 6, 1e-6, 3.0


@dataclass(frozen=True)
class Difference:
    """Between onnxruntime and torch, of what is named `at`; both numbers as in TOLERANCES."""

    at: str
    error: float
    allowed: float  # the tolerance, or more where rounding changes torch's own result by more

    @property
    def excess(self) -> float:
        """1 is as much as is allowed."""
        return self.error / self.allowed

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


@dataclass(frozen=True)
class Sample:
    """A difference in one step of one episode."""

    kind: Kind
    step: int
    difference: Difference
    still: bool = False  # an update that is none: masks or rates of a rule hold the tensor


class Twin:
    """Follows a board through one episode; what was compared is in `samples`."""

    def __init__(self, learned: MetaModel, support: Support):
        self.samples: list[Sample] = []
        self._torch, self._support = learned, support
        self._weights = initial_weights(learned.model, learned.weights, support.targets.shape[1])
        self._state = learned.rule.begin(learned.weights)
        self._step = 0

    def follow(self, outputs: Arrays) -> None:
        """Take the board's step, whose graph gave `outputs`, from the same weights, compare, and go on from its.

        Of a prototype head the rows of the first step are compared too. Without a step nothing else is.
        """
        rows = {name: row for name, row in outputs.items() if name.startswith(START)}
        if rows and not self._step:
            self._compare(rows, _started, {})
            self._weights |= {name.removeprefix(START): torch.from_numpy(row) for name, row in rows.items()}
        if any(name.startswith(UPDATED) for name in outputs):
            self._follow_step(outputs)

    def _follow_step(self, outputs: Arrays) -> None:
        state, rule = self._state, self._torch.rule
        carried = {name: value for name, value in outputs.items() if name.startswith(NEXT)}
        following = state | {n.removeprefix(NEXT + RULE): torch.from_numpy(value) for n, value in carried.items()}
        adapted = rule.adapted(self._weights)
        after = self._weights | {name: torch.from_numpy(outputs[UPDATED + name]) for name in adapted}
        board = {name: value for name, value in outputs.items() if not name.startswith(UPDATED)}

        def by_torch(model: FewShotModel, weights: Weights, support: Support) -> Arrays:
            return _step(model, rule, weights, support, state, following)

        self._compare(board | _moves(self._weights, after, adapted), by_torch, _ulps(after))
        self._weights, self._state, self._step = after, following, self._step + 1

    def features(self, board: np.ndarray, trunk: Trunk, below: Weights, images: Tensor) -> None:
        """Compare what the board's trunk made of `images` [N, C, H, W]."""

        def by_torch(model: FewShotModel, weights: Weights, support: Support) -> Arrays:
            with torch.no_grad():
                return {FEATURES: trunk(weights, support.images).numpy()}

        fed = Support(images, self._support.targets)
        self._compare({FEATURES: board}, by_torch, {}, below, fed)

    def answer(self, queries: Tensor, probabilities: np.ndarray) -> None:
        """Compare the board's `probabilities` of the query images, after its last step."""

        def by_torch(model: FewShotModel, weights: Weights, support: Support) -> Arrays:
            images = queries.to(support.images.dtype)
            with torch.no_grad():
                logits = classify(model, weights, images, support, model.spec.normalization)
            return {ANSWER: logits.softmax(1).numpy()}

        self._compare({ANSWER: probabilities}, by_torch, {})

    def _compare(
        self,
        board: Arrays,
        by_torch: ByTorch,
        ulps: Mapping[str, float],
        weights: Weights | None = None,
        support: Support | None = None,
    ) -> None:
        """Adds a sample for everything that torch gives. `ulps`: what the board's weights are rounded by after a step.
        `weights` and `support`: what torch computes with, if not what the episode has reached.

        The board may agree with torch in float32 or in float64: of long sums of equal values (a flat-coloured image
        under the first convolution) torch's float32 loses 1e-3 and the board's nothing.
        """
        model, weights, support = self._torch.model, weights or self._weights, support or self._support
        expected = by_torch(model, weights, support)
        scales = _scales(expected)
        errors = {name: _distance(board[name], value) / scales[name] for name, value in expected.items()}
        allowed = {name: max(TOLERANCES[kind_of(name)], ulps.get(name, 0.0) / scales[name]) for name in expected}
        for ask in range(1 + DRAWS):
            if all(errors[name] <= allowed[name] for name in expected):
                break
            if ask == 0:
                exact = by_torch(copy.deepcopy(model).double(), *_in_float64(weights, support))
                errors = {
                    name: min(error, _distance(board[name], exact[name]) / scales[name])
                    for name, error in errors.items()
                }
            else:
                rounded = by_torch(model, *_rounded(weights, support, seed=ask))
                for name, value in expected.items():
                    allowed[name] = max(allowed[name], MARGIN * _distance(rounded[name], value) / scales[name])
        for name, value in expected.items():
            difference = Difference(name.removeprefix(UPDATED).removeprefix(NEXT), errors[name], allowed[name])
            kind = kind_of(name)
            self.samples.append(Sample(kind, self._step, difference, still=kind == "update" and not value.any()))


def kind_of(name: str) -> Kind:
    """Of an output of adapt.onnx, or of the probabilities of predict.onnx."""
    if name.startswith(UPDATED):
        return "update"
    if name.startswith(NEXT):
        return "decision"
    return "answer" if name == ANSWER else "forward"


def _started(model: FewShotModel, weights: Weights, support: Support) -> Arrays:
    """The rows that a prototype head begins with."""
    with torch.no_grad():
        features = body(model, weights, support.images, shares=support.shares).features
        rows = prototypes(model.spec, weights, features, support.targets)
    return {START + name: row.numpy() for name, row in rows.items()}


def _step(
    model: FewShotModel, rule: Rule, weights: Weights, support: Support, state: State, following: State
) -> Arrays:
    """What adapt.onnx gives for one step, with the way that each weight moves in place of the weight."""
    like = support.images
    before = detached(weights, rule)
    state, following = ({name: value.to(like.dtype) for name, value in each.items()} for each in (state, following))
    step = inner_step(model, before, support, rule, state)
    # A threshold that differs by rounding picks a few other weights: those of the board's threshold are compared.
    after = inner_step(model, before, support, rule, following).weights if rule.picks_weights else step.weights
    values = {LOSS: step.loss} | step.statistics | {f"{NEXT}{RULE}{name}": step.state[name] for name in rule.carried}
    arrays = {name: value.detach().numpy() for name, value in values.items()}
    return arrays | _moves(before, after, rule.adapted(before))


def _moves(before: Weights, after: Weights, names: tuple[str, ...]) -> Arrays:
    return {UPDATED + name: (after[name].double() - before[name].double()).detach().numpy() for name in names}


def _ulps(weights: Weights) -> dict[str, float]:
    """What is lost when a tensor is rounded to float32 after its move."""
    return {UPDATED + name: float(EPSILON * weight.detach().norm()) for name, weight in weights.items()}


def _in_float64(weights: Weights, support: Support) -> tuple[Weights, Support]:
    wide = {name: weight.detach().double() for name, weight in weights.items()}
    return wide, Support(support.images.double(), support.targets.double())


def _rounded(weights: Weights, support: Support, seed: int) -> tuple[Weights, Support]:
    """The same but for a random NOISE; what is zero in the weights stays so."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return NOISE * torch.randn(like.shape, generator=generator)

    images = support.images + noise(support.images)
    return {name: w.detach() * (1 + noise(w)) for name, w in weights.items()}, Support(images, support.targets)


def _scales(expected: Arrays) -> dict[str, float]:
    """What each difference is a share of."""
    lengths = {name: _length(value) for name, value in expected.items() if name.startswith(UPDATED)}
    whole = sum(length**2 for length in lengths.values()) ** 0.5
    scales = dict.fromkeys(expected, 1.0)  # of decisions and probabilities
    for name, value in expected.items():
        if name in lengths:
            scales[name] = max(lengths[name], SHORT * whole) or 1.0
        elif kind_of(name) == "forward":
            scales[name] = max(_length(value), SHORT)
            variance = expected.get(f"{name.removesuffix('mean')}var") if name.endswith(".mean") else None
            if variance is not None:  # a mean that is close to zero is measured by what varies around it
                scales[name] = float(np.hypot(scales[name], np.sqrt(variance.sum())))
    return scales


def _length(value: np.ndarray) -> float:
    return float(np.linalg.norm(value.astype(np.float64).ravel()))


def _distance(value: np.ndarray, other: np.ndarray) -> float:
    return _length(value.astype(np.float64) - other)
