"""How a bundle knows what it was not taught: a score and its distribution, chosen and measured on validation episodes.

The candidates are those of `candidates`; taken is the one with the largest area under the ROC of photos of taught
classes against foreign ones, in the mean over numbers of photos and of classes. How well it does is measured on test
episodes, whose classes have chosen nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from safetensors.numpy import save

from gems_edge.device.familiar import (
    KEPT,
    MOST_READ,
    UNKNOWN_FILE,
    Cell,
    Familiar,
    Score,
    class_scores,
    levels_at,
    levels_of,
    share_below,
)
from gems_edge.device.left_out import NO_RANKS, OwnRanks, counted_in, own_ranks
from gems_edge.export.cut import highest_cut
from gems_edge.export.foreign import (
    Asked,
    Asking,
    background_rows,
    samplers_for,
    stands_still,
    tasks_of,
    temperature_of,
)
from gems_edge.export.source import ExportOptions, MetaModel, Reports, Source
from gems_edge.export.steps import StepPlan
from gems_edge.meta.precision import matrix_precision
from gems_edge.models.fewshot import Weights
from gems_edge.progress import Count, counted_from

PHOTOS, CLASSES = (1, 2, 5, 10), (2, 5, 10)  # that are measured, where there are as many
EPISODES, ADAPTED_EPISODES = 200, 40  # of each pair, at most: without and with gradient steps
ADAPTED_PHOTOS = (1, 5)  # that are measured with gradient steps, beside those of training
COVERAGE = 0.9
_ROC_POINTS = 21

Setting = tuple[int, int]  # photos of each class, classes
Results = dict[Setting, list[Asked]]


@dataclass(frozen=True)
class Unknown:
    entry: dict[str, Any] | None  # of the manifest
    files: dict[str, bytes]


def measure_unknown(
    learned: MetaModel, source: Source, plan: StepPlan, options: ExportOptions, reports: Reports
) -> Unknown:
    """Measured on what is exported; no entry where validation has too few classes or images."""
    settings = _settings(learned, source, plan, "val")
    if not settings:
        reports.say("validation has no class beside those of an episode: the bundle will know nothing as unknown")
        return Unknown(None, {})
    still = stands_still(learned, plan, source.config.normalization)
    episodes = min(EPISODES if still else ADAPTED_EPISODES, options.episodes)
    tests = _settings(learned, source, plan, "test")
    with reports.evaluation("foreign objects", episodes * (len(settings) + len(tests))) as progress:
        with matrix_precision("fp32"):
            rows = background_rows(learned, source)
            validated = _results(Asking(learned, source, "val", plan), source, rows, settings, episodes, progress)
            behind = counted_from(progress, sum(map(len, validated.values())))
            tested = _results(Asking(learned, source, "test", plan), source, rows, tests, episodes, behind)
    scores = candidates(source.config.metric, rows, _may_read(learned) and not still)
    areas = {score: _mean_area(score, validated) for score in scores}
    score = max(areas, key=areas.__getitem__)
    cells = tuple(_cell(score, setting, asked) for setting, asked in validated.items())
    familiar = Familiar(score, cells, temperature_of(learned) if any(cell.left_best for cell in cells) else None)
    in_tests = [measured(familiar, setting, asked) for setting, asked in tested.items()]
    _tell(in_tests, source.config.ways, reports)
    entry = {
        "score": asdict(score),
        "kept": KEPT,
        "temperature": familiar.temperature,
        "cells": [asdict(cell) for cell in familiar.cells],
        "candidates": [asdict(each) | {"area": round(area, 4)} for each, area in areas.items()],
        "episodes": episodes,
        "validation": [measured(familiar, setting, asked) for setting, asked in validated.items()],
        "test": in_tests,
    }
    return Unknown(entry, _files(score, rows))


def candidates(metric: str, rows: Mapping[str, object], distances: bool) -> list[Score]:
    """Scores to choose from. Squared distances can be compared by their differences alone."""
    behind = Score("background", 0.75 if metric == "cosine" else 1.0, 3)
    further = [*([behind] if rows else []), *([Score("distance")] if distances else [])]
    return [Score("largest"), Score("energy"), Score("share"), *further]


def _may_read(learned: MetaModel) -> bool:
    """Whether a board can ask what the head reads of taught photos: their pixels are kept, and unit rows are small."""
    return highest_cut(learned) is None and learned.model.spec.feature_size <= MOST_READ


def area(known: np.ndarray, foreign: np.ndarray) -> float:
    """Under the ROC: the share of pairs in which the known photo has the higher score; ties count half."""
    ascending = np.sort(foreign)
    below, upto = (np.searchsorted(ascending, known, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(foreign)))


def measured(familiar: Familiar, setting: Setting, asked: Sequence[Asked]) -> dict[str, Any]:
    """What the calibration does in episodes of this setting, and their ROC."""
    known, foreign, _ = _scores(familiar.score, asked)
    best, of_own = levels_at(familiar, *setting, "best", "own")
    kept, refused, held, sizes = [], [], [], []
    for each in asked:
        ranks = _ranks(familiar, setting, each)
        of_known, of_foreign, every = _scores(familiar.score, [each])
        kept.append(counted_in(share_below(of_known, best), ranks.best) >= 1 - KEPT)
        refused.append(counted_in(share_below(of_foreign, best), ranks.best) < 1 - KEPT)
        sets = counted_in(share_below(every, of_own), ranks.own) >= 1 - COVERAGE
        held.append(sets[np.arange(len(sets)), each.own])
        sizes.append(sets.sum(axis=1))
    return {
        "photos": setting[0],
        "classes": setting[1],
        "area": round(area(known, foreign), 4),
        "kept": _mean(kept),
        "refused": _mean(refused),
        "coverage": {"asked": COVERAGE, "reached": _mean(held), "classes": _mean(sizes)},
        "roc": roc(known, foreign),
    }


def _mean(parts: Sequence[np.ndarray]) -> float:
    return round(float(np.concatenate(parts).mean()), 4)


def _ranks(familiar: Familiar, setting: Setting, asked: Asked) -> OwnRanks:
    if familiar.temperature is None or asked.left is None:
        return NO_RANKS
    photos, classes = setting
    return own_ranks(familiar, asked.left, [photos] * classes, [True] * classes)


def roc(known: np.ndarray, foreign: np.ndarray) -> list[list[float]]:
    """Pairs of shares (known photos kept, foreign ones refused) for thresholds from none to all."""
    kept = np.linspace(1, 0, _ROC_POINTS)
    thresholds = np.quantile(known, 1 - kept)
    return [[round(float(k), 3), round(float((foreign < t).mean()), 4)] for k, t in zip(kept, thresholds)]


def _settings(learned: MetaModel, source: Source, plan: StepPlan, split: str) -> list[Setting]:
    """All pairs of numbers of photos and of classes for which every distribution has episodes with foreign queries."""
    config = source.config
    ends = {shots.most for shots in config.shots.ends}
    still = stands_still(learned, plan, config.normalization)
    photos = sorted({*(PHOTOS if still else ADAPTED_PHOTOS), *ends})
    most = min(len(each.of_split(split)) for each in source.images.sets) - 1
    ways = [w for w in {*CLASSES, config.ways} if w <= (config.ways if config.head == "per-class" else most)]
    if most not in ways and most >= 2 and not [w for w in ways if w <= most]:
        ways = [most]
    usable = [[(n, w) for n in photos if samplers_for(source, split, w, n)] for w in sorted(ways)]
    common = set.intersection(*({n for n, _ in pairs} for pairs in usable if pairs)) if any(usable) else set()
    return [(n, w) for pairs in usable for n, w in pairs if n in common]


def _results(
    asking: Asking,
    source: Source,
    rows: Weights,
    settings: Sequence[Setting],
    episodes: int,
    progress: Count | None,
) -> Results:
    results: Results = {}
    asking.read.learned.model.to(source.device)
    for photos, ways in settings:
        samplers = samplers_for(source, asking.split, ways, photos)
        each = math.ceil(episodes / len(samplers))
        asked = results[photos, ways] = []
        for sampler in samplers:
            asked += [asking.ask(task, rows) for task in tasks_of(sampler, each)]
            if progress:
                progress(sum(map(len, results.values())))
    asking.read.learned.model.cpu()
    return results


def _scores(score: Score, asked: Sequence[Asked]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of known photos the best class's score and of foreign ones, and of known ones every class's."""
    best, foreign, every = [], [], []
    for each in asked:
        scores = class_scores(score, each.logits, each.distances if score.kind == "distance" else each.background)
        known, likeliest = len(each.own), scores[np.arange(len(scores)), each.logits.argmax(axis=1)]
        best.append(likeliest[:known])
        foreign.append(likeliest[known:])
        every.append(scores[:known])
    return np.concatenate(best), np.concatenate(foreign), np.concatenate(every)


def _mean_area(score: Score, results: Results) -> float:
    return float(np.mean([area(*_scores(score, asked)[:2]) for asked in results.values()]))


def _cell(score: Score, setting: Setting, asked: Sequence[Asked]) -> Cell:
    known, _, every = _scores(score, asked)
    own = np.concatenate([each.own for each in asked])
    cell = Cell(*setting, levels_of(known), levels_of(every[np.arange(len(own)), own]))
    photos = [each.left for each in asked if each.left is not None and len(each.left.own)]
    if not photos:
        return cell
    scores = [class_scores(score, each.logits, each.beside) for each in photos]
    left_own = [rows[np.arange(len(rows)), each.own] for rows, each in zip(scores, photos)]
    of_best = np.concatenate([rows.max(axis=1) for rows in scores])
    return replace(cell, left_best=levels_of(of_best), left_own=levels_of(np.concatenate(left_own)))


def _files(score: Score, rows: Weights) -> dict[str, bytes]:
    if score.kind != "background":
        return {}
    return {UNKNOWN_FILE: save({name: row.numpy() for name, row in rows.items()})}


def _tell(tests: Sequence[Mapping[str, Any]], ways: int, reports: Reports) -> None:
    for each in tests:
        if each["classes"] == ways:
            reports.say(
                f"of {ways} classes with {each['photos']} photos each {100 * each['kept']:.0f} % of their test photos "
                f"are answered, {100 * each['refused']:.0f} % of foreign ones unknown (area {each['area']:.3f})"
            )
