"""What `evaluate` is asked, and the document that it answers with: the same for runs and for bundles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gems_edge.data.mixture import Mixture, MixtureSampler, mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.specs import Specs, specs_text
from gems_edge.errors import UserError
from gems_edge.meta.evaluation.accuracy import Accuracy, mean_accuracy, mean_over_distributions


@dataclass(frozen=True)
class EvaluationProtocol:
    """What to evaluate on; None means as trained. `data` may name several image sets, each of which is evaluated."""

    data: Specs | None = None
    split: str = "test"
    episodes: int = 600  # of each image set
    ways: int | None = None
    shots: Shots | None = None  # None: as trained, both ends of a range
    queries: int | None = None
    steps: int | None = None
    per_step: bool = False
    normalization: str | None = None
    seed: int = 1
    root: Path | None = None
    modes: tuple[str, ...] | None = None  # the normalisation modes to compute; None: all that the run has
    each_episode: bool = False  # rows of a distribution's table also hold "shares": of every episode

    def samplers(self, images: Mixture, ways: int, shots: Shots, queries: int) -> list[MixtureSampler]:
        """One for each number of shots that is tested; the first is that of the headline."""
        ways, queries = self.ways or ways, self.queries or queries
        return [
            mixture_sampler(images, self.split, ways, tested, queries, self.seed) for tested in self.tested_shots(shots)
        ]

    def tested_shots(self, trained: Shots) -> tuple[Shots, ...]:
        return (self.shots or trained).ends

    def step_counts(self, trained: int) -> list[int]:
        steps = trained if self.steps is None else self.steps
        return list(range(steps + 1)) if self.per_step else [steps]

    def check_ways(self, head: str, trained: int) -> None:
        """UserError for more classes than a per-class head has rows."""
        if head == "per-class" and self.ways is not None and self.ways > trained:
            raise UserError(
                f"--ways {self.ways}: the head has one learned row per class and {trained} of them; "
                "train with --head shared for any number"
            )


def document(
    shares: Sequence[Mapping[tuple[str, int], Sequence[float]]],
    mode: str,
    steps: int,
    sampler: MixtureSampler,
    data: Specs,
    untrained: Sequence[Sequence[float]] | None = None,
    each_episode: bool = False,
) -> dict[str, Any]:
    """Headline figure (`mode` after `steps`) and the table of all modes and step counts.

    `shares`: of each distribution the share of right queries of every episode, by (mode, inner steps). With several
    distributions the figures are means over them, whose interval is that of their episodes; each distribution's own are
    under its name. `untrained`: of each distribution the bar's shares on the same episodes (untrained.py);
    `each_episode`: see EvaluationProtocol.
    """
    tables = [{key: mean_accuracy(episodes) for key, episodes in each.items()} for each in shares]
    means = {key: mean_over_distributions([table[key] for table in tables]) for key in tables[0]}
    drawn = sampler.samplers[0]
    bars = None if untrained is None else [mean_accuracy(episodes) for episodes in untrained]
    kept = shares if each_episode else [{}] * len(tables)
    entries = [table[mode, steps].as_dict() | {"table": _rows(table, own)} for table, own in zip(tables, kept)]
    if bars is not None:
        entries = [entry | bar_entry(bar) for entry, bar in zip(entries, bars)]
    return {
        **means[mode, steps].as_dict(),
        **({} if bars is None else bar_entry(mean_over_distributions(bars))),
        "ways": drawn.ways,
        "shots": drawn.shots.value,
        "queries": drawn.queries,
        "split": drawn.split,
        "seed": drawn.seed,
        "steps": steps,
        "normalization": mode,
        "data": specs_text(data),
        "table": _rows(means),
        "distributions": dict(zip(sampler.names, entries)),
    }


def bar_entry(bar: Accuracy) -> dict[str, Any]:
    """What stands beside an accuracy: that of the same network without any training."""
    return {"untrained": {"accuracy": bar.accuracy, "ci95": bar.ci95}}


def with_other_shots(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first document, of the headline; with more than one also the figures of each under "by_shots"."""
    if len(documents) == 1:
        return documents[0]
    kept = ("shots", "accuracy", "ci95", "episodes", "untrained", "table", "distributions", "int8")
    return documents[0] | {"by_shots": [{name: each[name] for name in kept if name in each} for each in documents]}


def _rows(
    table: Mapping[tuple[str, int], Accuracy], shares: Mapping[tuple[str, int], Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    rows = []
    for (mode, steps), accuracy in table.items():
        own = {"shares": [round(share, 6) for share in shares[mode, steps]]} if shares else {}
        rows.append({"normalization": mode, "steps": steps, **accuracy.as_dict(), **own})
    return rows
