"""`evaluate` for whole runs (torch) and bundles (onnxruntime): the same episodes, the same report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gems_edge.data.episodes import EpisodeIndices, EpisodeSampler, make_sampler
from gems_edge.data.imageset import ImageSet
from gems_edge.data.sources import load_images
from gems_edge.device.learner import Learner
from gems_edge.errors import UserError
from gems_edge.meta.evaluate import check_mode, mean_accuracy, modes_for

Progress = Callable[[int], None]


@dataclass(frozen=True)
class EvaluationProtocol:
    """What to evaluate on; None means as trained."""

    data: str | None = None
    split: str = "test"
    episodes: int = 600
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    steps: int | None = None
    per_step: bool = False
    normalization: str | None = None
    seed: int = 1
    root: Path | None = None

    def sampler(self, images: ImageSet, ways: int, shots: int, queries: int) -> EpisodeSampler:
        return make_sampler(
            images, self.split, self.ways or ways, self.shots or shots, self.queries or queries, self.seed
        )

    def step_counts(self, trained: int) -> list[int]:
        steps = trained if self.steps is None else self.steps
        return list(range(steps + 1)) if self.per_step else [steps]


def evaluate_run(
    directory: Path, protocol: EvaluationProtocol, device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """The document of `evaluate --json` for a run."""
    from gems_edge.data.tensors import episode_tensors
    from gems_edge.meta.allocator import keep_freed_memory
    from gems_edge.meta.evaluate import evaluate
    from gems_edge.meta.precision import matrix_precision
    from gems_edge.meta.processes import single_process, start_processes
    from gems_edge.meta.rules import UpdateRule
    from gems_edge.meta.run import Run

    single_process("evaluate")

    run = Run(directory)
    config = run.config()
    mode = check_mode(config.normalization, protocol.normalization or config.normalization)
    model, weights = run.model()
    ways = protocol.ways or config.ways
    _check_ways(config.head, config.ways, ways)
    place = start_processes(device).device
    if place.type == "cpu":
        keep_freed_memory()
    data = protocol.data or config.data
    images = load_images(data, image_size=config.image_size, channels=config.channels, root=protocol.root)
    sampler = protocol.sampler(images, config.ways, config.shots, config.queries)
    rule, steps = UpdateRule(config.method, config.inner_lr), protocol.step_counts(config.steps)
    with matrix_precision("fp32"):
        found = evaluate(
            model.to(place), weights, episode_tensors(images, place), sampler, rule,
            steps=steps, modes=modes_for(config.normalization), tasks=range(protocol.episodes), progress=progress,
        )  # fmt: skip
    return report(found, mode, steps[-1], sampler, data)


def evaluate_bundle(directory: Path, protocol: EvaluationProtocol, progress: Progress | None = None) -> dict[str, Any]:
    """The document of `evaluate --json` for a bundle: every episode is learned and answered by onnxruntime."""
    learner = Learner.load(directory)
    manifest = learner.bundle.manifest
    if protocol.per_step:
        raise UserError("--per-step is for runs; a bundle takes --steps")
    mode = manifest["normalization"]
    if protocol.normalization not in (None, mode):
        raise UserError(
            f"a bundle answers in the mode it was exported for, {mode!r}; --normalization {protocol.normalization} needs the run"
        )
    ways = protocol.ways or manifest["ways"]
    _check_ways(manifest["head"], manifest["ways"], ways)
    data = protocol.data or manifest["provenance"]["data"]
    if data != protocol.data and data.startswith(("folder:", "packed:")):
        raise UserError(
            f"a bundle does not know where its images lie; give them with --data {data.partition(':')[0]}:PATH"
        )
    shape = manifest["image"]
    images = load_images(data, image_size=shape["size"], channels=shape["channels"], root=protocol.root)
    sampler = protocol.sampler(images, manifest["ways"], manifest["shots"], manifest["queries"])
    steps = protocol.step_counts(manifest["rule"]["steps"])[-1]
    truth, values = np.repeat(np.arange(ways), sampler.queries), []
    for task in range(protocol.episodes):
        answers = learn_episode(learner, images, sampler.draw(0, task), steps).argmax(1)
        values.append(float((answers == truth).mean()))
        if progress:
            progress(task + 1)
    return report({(mode, steps): values}, mode, steps, sampler, data)


def learn_episode(learner: Learner, images: ImageSet, indices: EpisodeIndices, steps: int) -> np.ndarray:
    """Teach the board's learner one episode; probabilities [queries, ways] of its query images, class by class."""
    ways, shots = indices.support.shape
    learner.adapt(images.images[indices.support.reshape(-1)], np.repeat(np.arange(ways), shots).tolist(), steps=steps)
    return learner.predict(images.images[indices.query.reshape(-1)])


def report(
    found: dict[tuple[str, int], list[float]], mode: str, steps: int, sampler: EpisodeSampler, data: str
) -> dict[str, Any]:
    """Headline figure (`mode` after `steps`) and the table of all modes and step counts."""
    rows = [{"normalization": m, "steps": s, **mean_accuracy(values).as_dict()} for (m, s), values in found.items()]
    protocol = {
        "ways": sampler.ways,
        "shots": sampler.shots,
        "queries": sampler.queries,
        "split": sampler.split,
        "seed": sampler.seed,
    }
    head = mean_accuracy(found[mode, steps]).as_dict()
    return head | protocol | {"steps": steps, "normalization": mode, "data": data, "table": rows}


def _check_ways(head: str, trained: int, ways: int) -> None:
    if head == "per-class" and ways > trained:
        raise UserError(
            f"--ways {ways}: the head has one learned row per class and {trained} of them; train with --head shared for any number"
        )
