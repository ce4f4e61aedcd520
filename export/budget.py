"""The most accurate bundle within a budget: predicted time and memory on boards, before anything is trained or run.

What is searched: the share of weights to remove, what widths are multiples of, how the adaptation graph trades memory
for time, and how many gradient steps are taken at most.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
import torch

from gems_edge.errors import UserError
from gems_edge.export.cut import board_step, board_trunk, highest_cut
from gems_edge.export.graphs import predict_graph
from gems_edge.export.manifest import costs
from gems_edge.export.passes.stream import MEMORY, stream
from gems_edge.export.recovery import remaining_ratio
from gems_edge.export.source import MetaModel, Source
from gems_edge.export.steps import step_counts, without_steps
from gems_edge.meta.meta_model import Halves, halves
from gems_edge.models.fewshot import FewShotModel
from gems_edge.models.spec import ModelSpec
from gems_edge.predict.latency import latency
from gems_edge.predict.memory import predict_memory
from gems_edge.predict.prediction import Prediction
from gems_edge.predict.profiles import DeviceProfile
from gems_edge.tickets.channels import Pruned, check_ratio, prune
from gems_edge.wording import count_text

RATIOS = tuple(step / 20 for step in range(20))  # 0, 0.05 … 0.95
ROUNDINGS = (16, 8)
# How many networks are trained to see which is the most accurate, where some take more steps and others more weights.
TRAINED = 3


@dataclass(frozen=True)
class Limit:
    """`most` of one predicted quantity: "predict" and "adapt" (all steps together) in ms, "memory" in MB."""

    what: str
    option: str
    most: float


@dataclass(frozen=True)
class Budget:
    boards: tuple[DeviceProfile, ...]  # each of them must keep every limit
    limits: tuple[Limit, ...]
    threads: int | None = None  # None: all cores
    surely: bool = True  # a limit must hold at the upper end of the prediction's interval, not only in its middle
    ratios: tuple[float, ...] = RATIOS
    roundings: tuple[int, ...] = ROUNDINGS
    memories: tuple[str, ...] = tuple(MEMORY)

    def counted(self, prediction: Prediction) -> float:
        return prediction.high if self.surely else prediction.value


@dataclass(frozen=True)
class Candidate:
    """One way to export, and what it is predicted to take: board id → quantity → prediction."""

    ratio: float
    round_to: int
    memory: str
    steps: int
    predicted: dict[str, dict[str, Prediction]]

    def over(self, budget: Budget) -> list[tuple[str, Limit, Prediction]]:
        """The limits that it breaks, and on which board."""
        return [
            (board, limit, predictions[limit.what])
            for board, predictions in self.predicted.items()
            for limit in budget.limits
            if budget.counted(predictions[limit.what]) > limit.most
        ]

    def excess(self, budget: Budget) -> float:
        """The largest of all quantities as a multiple of its limit."""
        pairs = itertools.product(self.predicted.values(), budget.limits)
        return max(budget.counted(predictions[limit.what]) / limit.most for predictions, limit in pairs)


@dataclass(frozen=True)
class Fitting:
    candidates: tuple[Candidate, ...]  # that fit; more steps first
    binds: tuple[str, ...]  # what the next larger network would break, empty if the whole network fits


def search(source: Source, budget: Budget, say: Callable[[str], None]) -> Fitting:
    """What fits the budget: for every number of steps the network of the most weights, without those that another one
    beats in both. Raises UserError with the nearest that there is if nothing fits."""
    for board in budget.boards:
        if board.memory_only:
            raise UserError(f"{board.name}: no onnxruntime here, so no bundle runs on it; {board.memory_only}")
    networks = _Networks(source, budget, say)
    nearest = networks.smallest()
    if nearest.over(budget):
        raise UserError(_nothing_fits(nearest, budget))
    say(f"search: ratio {nearest.ratio:g} fits")
    fitting: list[Candidate] = []
    binds: list[str] = []
    for steps in reversed(step_counts(source)):
        best = networks.largest(steps)
        if best is None:
            continue
        if not fitting or best.ratio < fitting[-1].ratio:
            fitting.append(best)
            binds = binds or _binding(networks, best)
        if not best.ratio:
            break
    return Fitting(tuple(fitting), tuple(binds))


def spread(candidates: Sequence[Candidate], count: int = TRAINED) -> list[Candidate]:
    """At most `count` of them, from end to end."""
    if len(candidates) <= count:
        return list(candidates)
    chosen = {round(index * (len(candidates) - 1) / (count - 1)) for index in range(count)}
    return [candidates[index] for index in sorted(chosen)]


@dataclass(frozen=True)
class _Network:
    """A pruned network and the costs of its graphs, each made when it is asked for."""

    source: Source
    pruned: Pruned
    takes_steps: bool

    @cached_property
    def model(self) -> FewShotModel:
        return FewShotModel(self.pruned.spec)

    @cached_property
    def _predict(self) -> onnx.ModelProto:
        statistics = {name: torch.ones(self._channels(name)) for name in self.model.statistics_names()}
        return predict_graph(self.model, self.pruned.weights, statistics)

    def _channels(self, statistic: str) -> int:
        return self.pruned.weights[f"{statistic.rpartition('.')[0]}.weight"].numel()

    @cached_property
    def _halves(self) -> Halves:
        learned = MetaModel(self.model, self.pruned.weights, self.source.trained.rule)
        learned = learned if self.takes_steps else without_steps(learned, self.source.config)
        return halves(learned, highest_cut(learned))

    @cached_property
    def _step(self) -> onnx.ModelProto:
        return board_step(self._halves)

    @cached_property
    def _trunk(self) -> onnx.ModelProto | None:
        return board_trunk(self._halves)

    def costs(self, memory: str) -> dict[str, Any]:
        """The manifest's "cost" of a bundle of this network."""
        sizes = self.source.sizes
        return costs(self._predict, stream(self._step, MEMORY[memory], sizes), sizes, trunk=self._trunk)


@dataclass
class _Networks:
    """The networks of every ratio and rounding, built when they are looked at."""

    source: Source
    budget: Budget
    say: Callable[[str], None]  # hears of every network that is looked at
    built: dict[tuple[float, int, bool], _Network] = field(default_factory=dict)
    known: dict[tuple[float, int, bool, str], dict[str, dict[str, Prediction]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dense, trained = self.source.dense.spec, self.source.trained.model.spec
        self.ratios = sorted(ratio for ratio in self.budget.ratios if _possible(dense, trained, ratio))
        if not self.ratios:
            check_ratio(trained, remaining_ratio(dense, trained, min(self.budget.ratios)))

    def largest(self, steps: int) -> Candidate | None:
        """The candidate with the most weights that fits with this many steps. Costs fall as the ratio grows.

        The first rounding is searched by halves; the others are only asked for the next larger networks, which they may
        hit more closely: a network takes seconds to trace.
        """
        coarse, *finer = self.budget.roundings
        low, high = 0, len(self.ratios)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fit(self.ratios[middle], coarse, steps) else (middle + 1, high)
        largest = self.fit(self.ratios[low], coarse, steps) if low < len(self.ratios) else None
        for round_to in finer:
            while low and (closer := self.fit(self.ratios[low - 1], round_to, steps)):
                largest, low = closer, low - 1
        return largest

    def fit(self, ratio: float, round_to: int, steps: int) -> Candidate | None:
        """The fastest way to export this network that fits; None where none does."""
        fitting = [c for c in self.candidates(ratio, round_to, steps) if not c.over(self.budget)]
        return min(fitting, key=lambda c: max(p["adapt"].value for p in c.predicted.values()), default=None)

    def smallest(self) -> Candidate:
        """The candidate that comes nearest to the budget among those of the fewest weights and steps."""
        ratio, steps = self.ratios[-1], step_counts(self.source)[0]
        smallest = [c for round_to in self.budget.roundings for c in self.candidates(ratio, round_to, steps)]
        return min(smallest, key=lambda candidate: candidate.excess(self.budget))

    def candidates(self, ratio: float, round_to: int, steps: int) -> Iterable[Candidate]:
        """The ways to export this network."""
        for memory in self.budget.memories:
            predicted = {
                board: predictions | {"adapt": adaptation(predictions, steps)}
                for board, predictions in self._predicted(ratio, round_to, steps > 0, memory).items()
            }
            yield Candidate(ratio, round_to, memory, steps, predicted)

    def _predicted(
        self, ratio: float, round_to: int, takes_steps: bool, memory: str
    ) -> dict[str, dict[str, Prediction]]:
        key = (ratio, round_to, takes_steps, memory)
        if key not in self.known:
            costs = self._network(ratio, round_to, takes_steps).costs(memory)
            self.known[key] = {
                board.id: predictions(
                    costs, board, self.budget.threads, self.source.config.ways, self.source.config.shots.most
                )
                for board in self.budget.boards
            }
        return self.known[key]

    def _network(self, ratio: float, round_to: int, takes_steps: bool) -> _Network:
        key = (ratio, round_to, takes_steps)
        if key not in self.built:
            trained = self.source.trained
            left = remaining_ratio(self.source.dense.spec, trained.model.spec, ratio)
            pruned = prune(trained.model, trained.weights, left, round_to)
            others = (network for network in self.built.values() if network.takes_steps == takes_steps)
            alike = [network for network in others if network.pruned.spec == pruned.spec]
            if not alike and ratio != self.ratios[-1]:
                self.say(f"search: ratio {ratio:g}, widths {', '.join(map(str, pruned.spec.widths))}")
            self.built[key] = alike[0] if alike else _Network(self.source, pruned, takes_steps)
        return self.built[key]


def predictions(
    costs: dict[str, Any], board: DeviceProfile, threads: int | None, ways: int, shots: int
) -> dict[str, Prediction]:
    """Predictions for a bundle on a board, from its manifest's "cost": "predict" (ms, one image), "step" (ms of one
    gradient step), "trunk" (ms, of all support images; only where there is one) and "memory" (MB, the larger peak of
    predicting and adapting)."""
    peaks = (predict_memory(costs, 1, "predict"), predict_memory(costs, ways * shots, "adapt"))
    return {
        "predict": latency(costs["predict"], board, threads),
        "step": latency(costs["adapt_step"], board, threads),
        **({"trunk": latency(costs["trunk"], board, threads).times(ways * shots)} if "trunk" in costs else {}),
        "memory": max(peaks, key=lambda peak: peak.high),
    }


def adaptation(predicted: Mapping[str, Prediction], steps: int) -> Prediction:
    """ms of one adaptation of `steps` steps, from `predictions`: the trunk over the support images, then the steps."""
    taken = predicted["step"].times(max(steps, 1))  # a prototype head runs its graph once where it takes none
    return predicted["trunk"].plus(taken) if "trunk" in predicted else taken


def _possible(dense: ModelSpec, trained: ModelSpec, ratio: float) -> bool:
    try:
        check_ratio(trained, remaining_ratio(dense, trained, ratio))
    except UserError:
        return False
    return True


def _binding(networks: _Networks, candidate: Candidate) -> list[str]:
    """What the network of the next smaller ratio would break, whichever way it is exported."""
    index = networks.ratios.index(candidate.ratio)
    if not index:
        return []
    larger = networks.candidates(networks.ratios[index - 1], candidate.round_to, candidate.steps)
    nearest = min(larger, key=lambda other: other.excess(networks.budget))
    return [_about(*broken) for broken in nearest.over(networks.budget)]


def _about(board: str, limit: Limit, prediction: Prediction) -> str:
    return f"{limit.option} {limit.most:g} on {board} ({prediction.value_text('.3g')}, up to {prediction.high:.3g})"


def _nothing_fits(nearest: Candidate, budget: Budget) -> str:
    over = "; ".join(_about(*broken) for broken in nearest.over(budget))
    least: dict[str, float] = {}
    for _, limit, prediction in nearest.over(budget):
        least[limit.option] = max(least.get(limit.option, 0), budget.counted(prediction))
    enough = ", ".join(f"{option} {_up(value)}" for option, value in least.items())
    return (
        f"nothing fits: the smallest network (ratio {nearest.ratio:g}, {count_text(nearest.steps, 'step')}, --memory "
        f"{nearest.memory}) breaks {over}; give {enough}, or another board"
    )


def _up(value: float) -> str:
    """`value` rounded up to three digits."""
    digits = 10 ** max(0, 2 - len(str(int(value))) + 1)
    return f"{-(-value * digits // 1) / digits:g}"
