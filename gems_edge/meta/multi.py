"""Multi-MAML (GEMS, WACV'23): a MAML for each distribution, trained as one run; the costly reference."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gems_edge.data.specs import specs_text
from gems_edge.errors import UserError
from gems_edge.meta.evaluate import Accuracy, mean_over_distributions
from gems_edge.meta.processes import Processes, start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.train import Progress, Say, check_directory, prepare, resolve, train


def train_multi(
    run: Run, config: TrainConfig, *, resume: bool = False, progress: Progress | None = None, root: Path | None = None,
    processes: Processes | None = None, say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Train DIR/distributions/NAME for every image set of the config, each for all iterations of it, one after the other.

    Resumes as they do. Returns the mean of their best validations; "iteration" is that of the last one's. Raises UserError
    for a single image set, and as `train`.
    """
    if len(config.data) < 2:
        raise UserError(
            f"multi-maml trains one model for each of several image sets, and --data names one ({specs_text(config.data)}); "
            "name more, or use --method maml"
        )
    check_directory(run, resume)
    started = processes or start_processes(config.compute)
    config, images = started.first_of_node(lambda: resolve(config, root, say if started.first else lambda line: None))
    if started.first:
        prepare(run, config)
    started.wait()
    found = []
    for number, (name, spec) in enumerate(zip(images.names, config.data)):
        alone = as_maml(config, spec)
        shown = None if progress is None else lambda record, name=name: progress(record | {"phase": name})
        found.append(
            train(run.distribution(name), alone, resume=True, progress=shown, processes=started, images=images.alone(number))
        )  # fmt: skip
    if processes is None:
        started.leave()
    mean = mean_over_distributions(
        [Accuracy(best["accuracy"], best["ci95"], config.validation_episodes) for best in found]
    )
    return {"iteration": found[-1]["iteration"], "accuracy": mean.accuracy, "ci95": mean.ci95}


def as_maml(config: TrainConfig, spec: str) -> TrainConfig:
    """The config of one distribution's own run."""
    return replace(config, method="maml", data=(spec,), data_weights=())
