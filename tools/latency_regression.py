"""The regression behind device_profiles/latency.toml: cycles per unit of work, shared between boards as far as they
agree.

A network takes Σ_term amount · cycles(board, precision, threads, term) / clock. The logarithm of a number of cycles is
a sum of effects: the term's own, the core type's, the precision's, the number of threads', the board's. Each effect has
a normal prior around zero, so what few rows cannot tell is borrowed from the boards that resemble this one. Errors are
relative (differences of logarithms), with Student's t weights (8 degrees of freedom) against single odd rows; the
maximum of the posterior is found by Gauss-Newton steps with Levenberg's damping.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

# Cycles per unit on a small core, one thread, as the priors' middle: a dense kernel does about 3 MACs a cycle,
# Winograd's spares some, memory gives an element in a few cycles. Each may be e times more or less.
MIDDLE = {
    "conv1x1": 0.3, "conv3x3": 0.15, "conv": 0.5, "depthwise": 1.5, "conv_maps": 2.0, "conv_weights": 4.0,
    "conv3x3_maps": 10.0, "conv3x3_weights": 4.0, "gemm_weights": 2.0, "elementwise": 3.0, "ops": 20000.0,
}  # fmt: skip
# Standard deviations of the effects. Chosen on rows of other boards than the ones that the tables report.
SPREAD = {
    "term": 1.0, "core": 1.0, "core·term": 0.5, "precision": 1.0, "precision·term": 0.4, "threads": 1.0,
    "threads·term": 0.3, "board": 0.25, "board·term": 0.15, "board·threads": 0.2, "setting": 0.05,
}  # fmt: skip
# Half-precision halves bytes and doubles lanes: boards with fp16 rows have no fp32 ones to tell the two apart by.
HALF = -log(2)
HALF_SPREAD = 0.15
NOISE = 0.08  # of a row's logarithm
FREEDOM = 8
STEPS = 15


@dataclass(frozen=True)
class Row:
    """One published latency."""

    board: str
    core: str
    clock: float  # GHz
    precision: str
    threads: int
    network: str
    ms: float

    @property
    def setting(self) -> tuple:
        return self.board, self.core, self.precision, self.threads


def effects_of(row: Row) -> list[tuple[tuple, float, float]]:
    """(name without the term, its factor, whether it has one value a term) for every effect on a row's cycles."""
    threads = log(row.threads)
    found = [(("term",), 1.0, True), (("core", row.core), 1.0, False), (("core·term", row.core), 1.0, True)]
    if row.precision != "fp32":
        found += [
            (("precision", row.precision), 1.0, False), (("precision·term", row.precision), 1.0, True),
        ]  # fmt: skip
    if threads:
        found += [(("threads",), threads, False), (("threads·term",), threads, True)]
        found += [(("board·threads", row.board, row.core), threads, False)]
    found += [(("board", row.board, row.core), 1.0, False), (("board·term", row.board, row.core), 1.0, True)]
    return [*found, (("setting", *row.setting), 1.0, False)]


@dataclass(frozen=True)
class Problem:
    """Rows as arrays. S settings, T terms, N networks, P parameters, R rows."""

    names: dict[tuple, int]  # effect (and term) → its place among the parameters
    design: np.ndarray  # [S, T, P]: log cycles = design @ parameters
    middle: np.ndarray  # [P] of the priors
    spread: np.ndarray  # [P]
    clocks: np.ndarray  # [S]
    work: np.ndarray  # [N, T]
    setting: np.ndarray  # [R]
    network: np.ndarray  # [R]
    observed: np.ndarray  # [R] log ms
    networks: tuple[str, ...]


def problem_of(
    rows: Sequence[Row], works: Mapping[str, Mapping[str, float]], middle_of: Mapping[str, float] = MIDDLE
) -> Problem:
    """`works`: network → amounts by term, as `work` in GRAPHCOST; `middle_of`: the terms, with cycles per unit."""
    terms = tuple(middle_of)
    settings = {row.setting: row for row in rows}
    places = {setting: index for index, setting in enumerate(settings)}
    names: dict[tuple, int] = {}
    entries = []
    for s, row in enumerate(settings.values()):
        for effect, factor, by_term in effects_of(row):
            for t, term in enumerate(terms):
                name = (*effect, term) if by_term else effect
                entries.append((s, t, names.setdefault(name, len(names)), factor))
    design = np.zeros((len(settings), len(terms), len(names)))
    for s, t, p, factor in entries:
        design[s, t, p] = factor
    middle, spread = np.zeros(len(names)), np.zeros(len(names))
    for name, p in names.items():
        spread[p] = SPREAD[name[0]]
        if name[0] == "term":
            middle[p] = log(middle_of[name[1]])
        elif name[:2] == ("precision·term", "fp16"):
            middle[p], spread[p] = HALF * (name[2] != "ops"), HALF_SPREAD
        elif name == ("precision", "fp16"):
            spread[p] = HALF_SPREAD
    networks = tuple(sorted({row.network for row in rows}))
    return Problem(
        names, design, middle, spread,
        np.array([row.clock for row in settings.values()]),
        np.array([[works[network].get(term, 0) for term in terms] for network in networks]),
        np.array([places[row.setting] for row in rows]),
        np.array([networks.index(row.network) for row in rows]),
        np.log([row.ms for row in rows]),
        networks,
    )  # fmt: skip


def times(problem: Problem, parameters: np.ndarray) -> np.ndarray:
    """[R, T] ms that each term takes in each row."""
    cycles = np.exp(problem.design @ parameters) / problem.clocks[:, None] / 1e6
    return cycles[problem.setting] * problem.work[problem.network]


def fit(problem: Problem, used: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """[P] parameters of the highest posterior from the rows where `used` [R] is true."""
    design, observed = problem.design[problem.setting[used]], problem.observed[used]
    precision = 1 / problem.spread**2

    def look(parameters):
        share = times(problem, parameters)[used]
        total = share.sum(1)
        scaled = (observed - np.log(total)) / NOISE
        loss = FREEDOM * np.log1p(scaled**2 / FREEDOM).sum() + (precision * (parameters - problem.middle) ** 2).sum()
        return loss, share / total[:, None], scaled

    parameters = (problem.middle if start is None else start).copy()
    damping = 1e-3
    loss, share, scaled = look(parameters)
    for _ in range(STEPS):
        slopes = np.einsum("rt,rtp->rp", share, design) / NOISE
        weights = 1 / (1 + scaled**2 / FREEDOM)
        curvature = (slopes * weights[:, None]).T @ slopes + np.diag(precision)
        downhill = (slopes * weights[:, None]).T @ scaled - precision * (parameters - problem.middle)
        while True:
            step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill)
            tried = look(parameters + step)
            if tried[0] <= loss or damping > 1e8:
                break
            damping *= 5
        gained, (loss, share, scaled) = loss - tried[0], tried
        parameters, damping = parameters + step, max(damping / 5, 1e-6)
        if gained < 1e-3:
            break
    return parameters


def held_out(problem: Problem, groups: np.ndarray, start: np.ndarray) -> np.ndarray:
    """[R] ms predicted for each row by a fit to the rows of all other groups ([R] of any labels)."""
    predicted = np.zeros(len(groups))
    for group in np.unique(groups):
        left_out = groups == group
        parameters = fit(problem, ~left_out, start)
        predicted[left_out] = times(problem, parameters)[left_out].sum(1)
    return predicted


def effect(problem: Problem, parameters: np.ndarray, *name) -> float:
    """The logarithm of one effect; 0 for one that no row knows."""
    place = problem.names.get(name)
    return 0.0 if place is None else float(parameters[place])
