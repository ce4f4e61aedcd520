"""A study is trained look by look: after each the claims are judged, and only what is not decided goes on to the next.

Nothing is kept of that but the trainings themselves: whatever is open is found anew from their results, so that a study
that was stopped goes on where it was.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from gems_edge.reproduce.claims import Claim
from gems_edge.reproduce.grid import Cell, GridOptions, run_grid
from gems_edge.reproduce.page import P, Reproduction, Study
from gems_edge.reproduce.protocol import S, Trial
from gems_edge.reproduce.results import key_of
from gems_edge.reproduce.verdicts import OPEN


@dataclass(frozen=True)
class Paper(Generic[P, S]):
    """What the reproductions of two papers have of their own."""

    title: str
    cells_of: Callable[[Iterable[Trial[S]]], Sequence[Cell]]
    judge: Callable[[Study[P, S]], Sequence[Claim]]  # the claims that more trainings may decide
    reproduce: Callable[[Study[P, S]], Reproduction]


def train(
    study: Study[P, S], paper: Paper[P, S], options: GridOptions, report: Callable[[str], None]
) -> Study[P, S]:  # fmt: skip
    """Train what the study needs until all is decided or done, or `options.until` has come; what is reached then.

    Raises what grid.run_grid raises.
    """
    while True:
        now = reached(study, paper)
        study = replace(study, results={**study.results, **run_grid(study.directory, now.cells, options, report)})
        now = reached(study, paper)
        if not now.missing or time.monotonic() >= options.until:
            return now


def reached(study: Study[P, S], paper: Paper[P, S]) -> Study[P, S]:
    """The study as far as it is to be trained, by what is done of it.

    Rows that no difference rests on are trained up to the last look at once.
    """
    first, *later = study.looks.seeds
    if not later:
        return study
    judged = paper.judge(study)
    compared = {key for claim in judged for finding in claim.findings for key in finding.rests_on}
    reach: dict[object, float] = dict.fromkeys(compared, first)

    def now() -> Study[P, S]:
        trials = [trial for trial in study.trials if trial.seed <= reach.get(key_of(trial), math.inf)]
        return study.only(trials, paper.cells_of(trials))

    for look in later:
        if now().missing:
            break
        claims = [claim for claim in paper.judge(now()) if claim.verdict == OPEN]
        findings = [finding for claim in claims for finding in claim.findings if finding.verdict == OPEN]
        reach |= {key: look for finding in findings for key in finding.rests_on}
    return now()
