"""From a run to a bundle: prune, recover, trace, verify, write."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.specs import distribution_name, specs_text
from gems_edge.data.tensors import Episode, EpisodeTensors
from gems_edge.export.bundle import check_target, write_bundle
from gems_edge.export.graphs import CLASSES, IMAGES, RULE, adapt_graph, predict_graph
from gems_edge.export.manifest import identity, parameters, provenance, tensor_names
from gems_edge.export.quantise import EPISODES, quantise
from gems_edge.export.recovery import recover, remaining_ratio
from gems_edge.export.source import ExportOptions, Reports, Source, open_source
from gems_edge.export.specialise import Specialised, specialise
from gems_edge.export.streaming import MEMORY, stream
from gems_edge.export.verify import int8_accuracy, verify_bundle
from gems_edge.graphs.cost import adapt_peak, describe
from gems_edge.graphs.footprint import memory_cost
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.evaluate import evaluate, mean_accuracy, mean_over_distributions, modes_for
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.models.fewshot import FewShotModel, Weights, forward
from gems_edge.models.layers import Statistics
from gems_edge.models.ticket import Ticket
from gems_edge.tickets.channels import Pruned, check_ratio, prune, remove_channels

VERIFIED_EPISODES = 5


def export_run(directory: Path, output: Path, options: ExportOptions, reports: Reports) -> dict[str, Any]:
    """Export the run in `directory` to the bundle `output`; returns the manifest.

    Raises UserError for a ratio that the network cannot meet, a network that cannot be exported, and a bundle that
    does not reproduce torch's results; `output` is then what it was before.
    """
    check_target(output)
    return export_source(open_source(directory, options, reports), output, options, reports)


def export_source(
    source: Source, output: Path, options: ExportOptions, reports: Reports, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """As export_run, of a run that is open; `about` goes into the manifest."""
    run, config = source.run, source.config
    model, weights, dense, ticket = source.model, source.weights, source.dense, source.ticket
    images, tensors, sampler, rule = source.images, source.tensors, source.sampler, source.rule
    ratio = remaining_ratio(dense.spec, model.spec, options.ratio)
    check_ratio(model.spec, ratio)
    check_target(output)
    keep_freed_memory()
    pruned = prune(model, weights, ratio, options.round_to)
    kept = None if ticket is None else ticket_kept(model, ticket, pruned)
    pruned = replace(pruned, reached=1 - pruned.spec.backbone_weights / dense.spec.backbone_weights)
    if pruned.reached:
        reports.say(
            f"widths {list(dense.spec.widths)} → {list(pruned.spec.widths)}: {100 * pruned.reached:.1f} % of the backbone's weights gone"
        )
    if ticket is not None:
        reports.say(_about_ticket(ticket, kept, ratio))
    # What is not pruned keeps its masks; a network whose channels went is small and dense, and learns with all it has.
    compact = model
    if ratio:
        pruned, _ = recover(source, pruned, options, reports)
        compact = FewShotModel(pruned.spec)

    def tested(name: str, subject: Specialised) -> dict[str, Any]:
        with reports.evaluation(f"evaluate {name}", options.episodes) as progress:
            return accuracies(subject, source, options.episodes, progress)

    exported = whole = Specialised(compact, pruned.weights, rule, {})
    if source.choosing is not None:
        exported = _specialised(whole, config, tensors, images.names[0], source.choosing, options, reports)
    reports.say(f"accuracy over {options.episodes} test episodes of {', '.join(images.names)} …")
    before = tested("the run", Specialised(model, weights, rule, {}))
    after = tested("what is exported", exported) if ratio or exported.about else before
    compact, learned, rule = exported.model, exported.weights, exported.rule
    episodes = [sampler.draw(0, task, VERIFIED_EPISODES)[1] for task in range(VERIFIED_EPISODES)]
    statistics = _start_statistics(compact, learned, tensors.episode(episodes[0]))
    sizes = {IMAGES: config.ways * config.shots, CLASSES: config.ways}
    adapt = stream(adapt_graph(compact, learned, rule), MEMORY[options.memory], sizes)
    predict = predict_graph(compact, learned, statistics)
    int8 = None
    if source.calibrating is not None:
        with reports.evaluation("calibrate int8", EPISODES) as progress, matrix_precision("fp32"):
            int8 = quantise(compact, learned, rule, config.steps, statistics, tensors, source.calibrating, progress)
    manifest = {
        **identity(output, config, pruned.spec, images, rule),
        "tensors": tensor_names(compact, learned, rule),
        "specialised": exported.about or None,
        "memory": options.memory,
        "ratio": {"asked": options.ratio, "reached": round(pruned.reached, 6), "round_to": pruned.round_to},
        "ticket": None
        if ticket is None
        else {
            "method": ticket.method,
            "unit": ticket.unit,
            "ratio": ticket.ratio,
            "kept": round(kept, 6),
        },
        "params": {"before": parameters(dense), "after": parameters(compact)},
        "macs": {"before": dense.spec.macs, "after": pruned.spec.macs},
        "accuracy_before": before,
        "accuracy": after,
        "cost": {
            "predict": describe(predict, {"images": 1, "classes": config.ways}),
            **({"predict_int8": describe(int8.graph, {"images": 1, "classes": config.ways})} if int8 else {}),
            "adapt_step": describe(adapt, sizes, blocked=False),
            "adapt_peak": adapt_peak(adapt, sizes),
            "memory": memory_cost(predict, adapt, sizes),
        },
        **({"int8": int8.about} if int8 else {}),
        "provenance": provenance(run, config),
        **(about or {}),
    }
    carried = {f"{RULE}{name}": rule.begin(learned)[name] for name in rule.carried}
    stored = {name: tensor.detach().float().numpy() for name, tensor in (learned | statistics | carried).items()}

    def check(staging: Path) -> dict[str, Any]:
        result = verify_bundle(staging, compact, learned, rule, config.steps, images, episodes)
        verified = {"verification": result.as_dict()}
        if int8 is None:
            return verified
        with reports.evaluation("evaluate int8", options.episodes) as progress:
            found = int8_accuracy(staging, config.steps, images, sampler, options.episodes, progress)
        return verified | {"int8": int8.about | {"accuracy": {config.normalization: found}}}

    files = predict.SerializeToString(), adapt.SerializeToString()
    return write_bundle(output, *files, stored, manifest, check, int8 and int8.graph.SerializeToString())


def _specialised(
    whole: Specialised, config: TrainConfig, tensors: EpisodeTensors, name: str, sampler: EpisodeSampler,
    options: ExportOptions, reports: Reports,
) -> Specialised:  # fmt: skip
    """What the run decides for --for-data, frozen; as it is where its method decides nothing."""
    seen = name in map(distribution_name, config.data)
    if not seen:
        trained = specs_text(config.data)
        reports.say(f"{name} is none of the run's image sets ({trained}): frozen for a distribution it never saw")
    if not whole.rule.decisions(whole.weights):
        reports.say(
            f"{config.method} adapts the same for every task: --for-data freezes nothing, it names the test set"
        )
        return whole
    with reports.evaluation(f"choices on {name}", options.tasks) as progress, matrix_precision("fp32"):
        found = specialise(
            whole.model, whole.weights, whole.rule, config.steps, tensors, sampler, range(options.tasks), progress
        )
    return replace(found, about={"data": name, "seen": seen, "tasks": options.tasks, **found.about})


def accuracies(
    subject: Specialised, source: Source, episodes: int, progress: Callable[[int], None] | None
) -> dict[str, Any]:
    """Mode → accuracy over `episodes` of the source's sampler, spread evenly over the distributions, and each's own."""
    config, sampler = source.config, source.sampler
    each, found = max(2, -(-episodes // len(sampler.samplers))), {}
    with matrix_precision("fp32"):
        for number, (name, one) in enumerate(zip(sampler.names, sampler.samplers)):
            found[name] = evaluate(
                TaskThreads(subject.model.to(source.place), each), subject.weights, source.tensors, one, subject.rule,
                steps=[config.steps], modes=modes_for(config.normalization), tasks=range(each),
                progress=progress and (lambda done, number=number: progress(number * each + done)),
            )  # fmt: skip
    subject.model.cpu()
    protocol = {"ways": config.ways, "shots": config.shots, "steps": config.steps}
    result = {}
    for key in next(iter(found.values())):
        parts = {name: mean_accuracy(values[key]) for name, values in found.items()}
        result[key[0]] = mean_over_distributions(list(parts.values())).as_dict() | protocol
        if len(parts) > 1:
            result[key[0]]["distributions"] = {name: part.as_dict() for name, part in parts.items()}
    return result


def ticket_kept(model: FewShotModel, ticket: Ticket, pruned: Pruned) -> float:
    """Share of the weights of the run's ticket that are left after `pruned` removed channels of `model`."""
    if ticket.unit == "channel":
        return pruned.spec.backbone_weights / model.spec.backbone_weights
    empty = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    ones = {name: torch.from_numpy(mask).float() for name, mask in ticket.masks.items()}
    _, left = remove_channels(model, empty | ones, pruned.kept)
    return sum(float(left[name].sum()) for name in ones) / sum(float(mask.sum()) for mask in ones.values())


def _about_ticket(ticket: Ticket, kept: float, ratio: float) -> str:
    about = f"the run's {ticket.method} {ticket.unit} ticket: {100 * kept:.1f} % of it kept"
    if not ratio:
        return about + (
            "; its channels are gone already, nothing to recover" if ticket.unit == "channel" else ", as a mask"
        )
    return about


def _start_statistics(model: FewShotModel, weights: Weights, episode: Episode) -> Statistics:
    """Normalisation statistics of an untaught bundle: those of one episode's support set. Teaching replaces them."""
    with torch.no_grad():
        return forward(model, weights, episode.support_images.cpu())[1]
