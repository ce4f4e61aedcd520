"""Several bundles of one run: within a budget, or one for each ratio."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gems_edge.data.mixture import mixture_sampler
from gems_edge.device.bundle import steps_for
from gems_edge.errors import UserError
from gems_edge.export.accuracies import accuracies
from gems_edge.export.budget import Budget, Candidate, adaptation, predictions, search, spread
from gems_edge.export.pipeline import export_source
from gems_edge.export.recovery import recover, remaining_ratio
from gems_edge.export.signing import check_output
from gems_edge.export.source import ExportOptions, Reports, Source, open_source
from gems_edge.predict.profiles import DeviceProfile
from gems_edge.tickets.channels import prune
from gems_edge.wording import count_text


def export_within(
    directory: Path, output: Path, options: ExportOptions, budget: Budget, reports: Reports
) -> dict[str, Any]:
    """Export the run in `directory` as the most accurate bundle that keeps the budget; returns the manifest.

    Where fewer gradient steps would leave room for more weights, some of the networks are trained, and the one with the
    best accuracy on validation is taken. Raises UserError with the nearest that there is if nothing fits.
    """
    check_output(output, options)
    source = open_source(directory, options, reports)
    fitting = search(source, budget, reports.say)
    chosen = _most_accurate(source, spread(fitting.candidates), options, reports)
    reports.say(_about(chosen, fitting.binds))
    options, source = _applied(chosen, source, options)
    about = {
        "budget": {
            "limits": {limit.option.removeprefix("--").replace("-", "_"): limit.most for limit in budget.limits},
            "threads": budget.threads,
            "binds": list(fitting.binds),
            "predicted": {
                board: {
                    "predict": values["predict"].as_dict(),
                    "adapt": {"most_steps": chosen.steps, **values["adapt"].as_dict()},
                    "memory": values["memory"].as_dict(),
                }
                for board, values in chosen.predicted.items()
            },
        }
    }
    return export_source(source, output, options, reports, about)


def export_family(
    directory: Path, outputs: Sequence[Path], ratios: Sequence[float], options: ExportOptions, reports: Reports
) -> list[dict[str, Any]]:
    """A bundle for every ratio; the manifests. Raises as export_run, before anything is trained where it can."""
    if len(set(ratios)) < len(ratios):
        raise UserError("--ratio names the same ratio twice")
    for output in outputs:
        check_output(output, options)
    source = open_source(directory, options, reports)
    return [
        export_source(source, output, replace(options, ratio=ratio), reports) for output, ratio in zip(outputs, ratios)
    ]


def front_points(
    manifests: Sequence[dict[str, Any]], boards: Sequence[DeviceProfile], threads: int | None
) -> list[dict[str, Any]]:
    """What a family's front is drawn from: of each bundle its accuracy, and what it is predicted to take on boards."""
    points = []
    for manifest in manifests:
        rule, shots = manifest["rule"], manifest["shots"]
        steps = steps_for(rule.get("steps_by_shots", ()), shots, rule["steps"])
        predicted = {
            board.id: predictions(manifest["cost"], board, threads, manifest["ways"], shots) for board in boards
        }
        points.append(
            {
                "name": manifest["name"],
                "ratio": manifest["ratio"]["reached"],
                "widths": manifest["backbone"]["widths"],
                "normalization": manifest["normalization"],
                "accuracy": manifest["accuracy"][manifest["normalization"]],
                "boards": {
                    board: {
                        "predict": values["predict"].as_dict(),
                        "adapt": adaptation(values, steps).as_dict(),
                        "memory": values["memory"].as_dict(),
                    }
                    for board, values in predicted.items()
                },
            }
        )
    return points


def _most_accurate(
    source: Source, candidates: Sequence[Candidate], options: ExportOptions, reports: Reports
) -> Candidate:
    """The best on validation, each with its steps, after recovery. Without recovery, which would tell nothing, the one
    with the most weights."""
    if len(candidates) == 1 or options.recover_iterations == 0:
        return candidates[-1]
    reports.say(f"{len(candidates)} ways to keep the budget: each is trained, the best on validation is taken")
    config = source.config
    samplers = [
        mixture_sampler(source.images, "val", config.ways, shots, config.queries, options.seed)
        for shots in config.shots.ends
    ]
    results: list[float] = []
    for candidate in candidates:
        chosen, shortened = _applied(candidate, source, options)
        learned = trained = source.trained
        left = remaining_ratio(source.dense.spec, trained.model.spec, chosen.ratio)
        if left:
            pruned = prune(trained.model, trained.weights, left, chosen.round_to)
            learned = recover(shortened, pruned, chosen, reports)
        way = f"ratio {chosen.ratio:g}, {count_text(candidate.steps, 'step')}"
        with reports.evaluation(f"validate {way}", options.episodes) as progress:
            modes = accuracies(learned, shortened, samplers, options.episodes, progress)
        tested = modes[config.normalization]
        ends = [entry["accuracy"] for entry in tested.get("by_shots", [tested])]
        results.append(sum(ends) / len(ends))
        reports.say(f"{way}: {100 * results[-1]:.1f} % on validation")
    return candidates[results.index(max(results))]


def _applied(candidate: Candidate, source: Source, options: ExportOptions) -> tuple[ExportOptions, Source]:
    """With no more steps than the candidate's: unless --steps says how many, fewer may still be chosen."""
    chosen = replace(options, ratio=candidate.ratio, round_to=candidate.round_to, memory=candidate.memory)
    return chosen, replace(source, config=replace(source.config, steps=candidate.steps))


def _about(chosen: Candidate, binds: Sequence[str]) -> str:
    limits = f"bound by {'; '.join(binds)}" if binds else "nothing binds: the whole network fits"
    return (
        f"within the budget: ratio {chosen.ratio:g}, widths in multiples of {chosen.round_to}, "
        f"--memory {chosen.memory}, at most {count_text(chosen.steps, 'step')}; {limits}"
    )
