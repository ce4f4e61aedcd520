"""Multi-MAML (GEMS, WACV'23): a MAML for each distribution, trained as one run; the costly reference."""

from dataclasses import replace
from pathlib import Path

from gems_edge.data.specs import specs_text
from gems_edge.errors import UserError
from gems_edge.meta.evaluation.accuracy import Accuracy, mean_over_distributions
from gems_edge.meta.processes import Processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.start import Start, starting
from gems_edge.meta.train import train_from
from gems_edge.progress import Progress, Say, in_phase, silent


def train_multi(
    run: Run,
    config: TrainConfig,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    root: Path | None = None,
    processes: Processes | None = None,
    say: Say = silent,
) -> dict[str, float]:
    """Train DIR/distributions/NAME for every image set of the config, each for all its iterations, one after the other.

    With `resume` each goes on from its checkpoint. Returns the mean of their best validations; "iteration" is that of
    the last one's. Raises UserError for a single image set, and as `train`.
    """
    if len(config.data) < 2:
        raise UserError(
            f"multi-maml trains one model for each of several image sets, and --data names one "
            f"({specs_text(config.data)}); name more, or use --method maml"
        )
    with starting(run, config, resume=resume, root=root, processes=processes, say=say) as start:
        start.check(run)
        start.begin(run)
        bests = []
        for number, (name, spec) in enumerate(zip(start.images.names, start.config.data)):
            alone = Start(as_maml(start.config, spec), start.images.alone(number), start.processes)
            bests.append(train_from(alone, run.distribution(name), progress=in_phase(progress, name)))
    mean = mean_over_distributions(
        [Accuracy(best["accuracy"], best["ci95"], config.validation_episodes) for best in bests]
    )
    return {"iteration": bests[-1]["iteration"], "accuracy": mean.accuracy, "ci95": mean.ci95}


def as_maml(config: TrainConfig, spec: str) -> TrainConfig:
    """The config of one distribution's own run."""
    return replace(config, method="maml", data=(spec,), data_weights=())
