"""From a run to a bundle, stage by stage: prune and recover, specialise, trace, lower and pass over graphs, verify."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.numpy import save

from gems_edge.data.episodes import EpisodeIndices
from gems_edge.data.specs import distribution_name, specs_text
from gems_edge.device.bundle import read_bundle
from gems_edge.device.bundle_files import FILES, SELFTEST_FILE, TRUNK_FILE
from gems_edge.device.int8 import INT8_FILE, TRUNK_INT8_FILE
from gems_edge.device.selftest import make_selftest
from gems_edge.device.trust import ANYBODY
from gems_edge.export.accuracies import accuracy_of, accuracy_of_the_run, untrained_accuracy
from gems_edge.export.bundle import write_bundle
from gems_edge.export.cut import board_step, board_trunk, highest_cut, trunk_entry
from gems_edge.export.graphs import RULE, predict_graph
from gems_edge.export.manifest import costs, identity, parameters, provenance, tensor_names
from gems_edge.export.passes.stream import MEMORY, stream
from gems_edge.export.quantise import EPISODES, Quantised, quantise, quantise_trunk
from gems_edge.export.recovery import recover, remaining_ratio
from gems_edge.export.signing import check_output, product_entry, signing
from gems_edge.export.source import ExportOptions, MetaModel, Reports, Source, open_source, read_by
from gems_edge.export.specialise import Specialised, specialise
from gems_edge.export.steps import (
    CHOOSING_EPISODES,
    FACTORS,
    StepPlan,
    choose_steps,
    step_counts,
    without_steps,
)
from gems_edge.export.unknown import Unknown, measure_unknown
from gems_edge.export.verify import int8_accuracy, verify_bundle
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.inner import Support, support_of
from gems_edge.meta.meta_model import Halves, halves
from gems_edge.meta.precision import matrix_precision
from gems_edge.models.fewshot import FewShotModel, body, initial_weights
from gems_edge.models.normalization import Statistics
from gems_edge.models.ticket import Ticket
from gems_edge.places import check_room
from gems_edge.tickets.channels import Pruned, check_ratio, prune, remove_channels
from gems_edge.wording import count_text

VERIFIED_EPISODES = 5
INT8_MOST_LOSS = 0.005


@dataclass(frozen=True)
class Compact:
    """The network that is left after pruning and recovery."""

    learned: MetaModel
    pruned: Pruned  # `reached` counted from the dense network
    ticket_kept: float | None  # share of the ticket's weights that is left; None without a ticket


@dataclass(frozen=True)
class Graphs:
    halves: Halves  # what is adapted, and what lies below
    adapt: onnx.ModelProto
    predict: onnx.ModelProto
    trunk: onnx.ModelProto | None
    int8: Quantised | None
    trunk_int8: onnx.ModelProto | None
    statistics: Statistics  # normalisation statistics of an untaught bundle


def export_run(directory: Path, output: Path, options: ExportOptions, reports: Reports) -> dict[str, Any]:
    """Export the run in `directory` to the bundle `output`; returns the manifest.

    Raises UserError for a ratio that the network cannot meet, a network that cannot be exported, and a bundle that
    does not reproduce torch's results; `output` is then what it was before.
    """
    check_output(output, options)
    return export_source(open_source(directory, options, reports), output, options, reports)


def export_source(
    source: Source, output: Path, options: ExportOptions, reports: Reports, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """As export_run, of a run that is open; `about` goes into the manifest."""
    ratio = remaining_ratio(source.dense.spec, source.trained.model.spec, options.ratio)
    check_ratio(source.trained.model.spec, ratio)
    check_output(output, options)
    check_room(output.parent, _least_bytes(source, ratio))
    keep_freed_memory()
    compact = _compacted(source, ratio, options, reports)
    exported = _specialised(source, compact.learned, options, reports)
    bar = untrained_accuracy(source, options, reports)
    before = after = accuracy_of_the_run(source, options, reports)
    plan = _step_plan(source, exported.learned, options, reports)
    changed = {steps for _, steps in plan.by_shots} - {source.config.steps} or plan.factor != 1
    source, exported = _planned(source, exported, plan)
    if ratio or exported.about or changed:
        after = accuracy_of(exported.learned, "what is exported", source, options, reports, plan)
    unknown = measure_unknown(exported.learned, source, plan, options, reports)
    graphs = _graphs(source, exported.learned, options, reports)
    manifest = {
        **product_entry(output, options),
        **_description(source, output, options, compact, exported, plan),
        "untrained": bar,
        "accuracy_before": before,
        "accuracy": after,
        "unknown": unknown.entry,
        "trunk": trunk_entry(graphs.halves),
        "cost": costs(
            graphs.predict, graphs.adapt, source.sizes, graphs.int8.graph if graphs.int8 else None, graphs.trunk
        ),
        **({"int8": graphs.int8.about} if graphs.int8 else {}),
        "provenance": provenance(source.run, source.config),
        **(about or {}),
    }

    def check(staging: Path) -> dict[str, Any]:
        return _verified(staging, source, exported.learned, graphs.int8, options, reports)

    contents = _contents(exported.learned, graphs, unknown)
    return write_bundle(output, contents, manifest, check, _selftest, signing(options))


def _least_bytes(source: Source, ratio: float) -> int:
    """A bundle has the weights in two files, in float32; all else comes on top."""
    return round(2 * 4 * (1 - ratio) * sum(weight.numel() for weight in source.trained.weights.values()))


# Prune and recover


def _compacted(source: Source, ratio: float, options: ExportOptions, reports: Reports) -> Compact:
    """The trained network without `ratio` of its weights, trained on where any went.

    What is not pruned keeps its masks; a network whose channels went is small and dense, and learns with all it has.
    """
    trained, dense, ticket = source.trained, source.dense.spec, source.ticket
    pruned = prune(trained.model, trained.weights, ratio, options.round_to)
    pruned = replace(pruned, reached=1 - pruned.spec.backbone_weights / dense.backbone_weights)
    if pruned.reached:
        gone = f"{100 * pruned.reached:.1f} % of the backbone's weights gone"
        reports.say(f"widths {list(dense.widths)} → {list(pruned.spec.widths)}: {gone}")
    kept = None
    if ticket is not None:
        kept = ticket_kept(trained.model, ticket, pruned)
        reports.say(_about_ticket(ticket, kept, ratio))
    if not ratio:
        return Compact(replace(trained, weights=pruned.weights), pruned, kept)
    return Compact(recover(source, pruned, options, reports), pruned, kept)


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
    if ratio:
        return about
    channels_gone = "; its channels are gone already, nothing to recover"
    return about + (channels_gone if ticket.unit == "channel" else ", as a mask")


# Specialise


def _specialised(source: Source, compact: MetaModel, options: ExportOptions, reports: Reports) -> Specialised:
    """With --for-data what the run decides for that image set, frozen; otherwise, and where its method decides nothing,
    the model as it is."""
    config = source.config
    if source.choosing is None or not config.steps:
        return Specialised(compact, {})
    name = source.images.names[0]
    seen = name in map(distribution_name, config.data)
    if not seen:
        trained = specs_text(config.data)
        reports.say(f"{name} is none of the run's image sets ({trained}): frozen for a distribution it never saw")
    if not compact.rule.decisions(compact.weights):
        reports.say(
            f"{config.method} adapts the same for every task: --for-data freezes nothing, it names the test set"
        )
        return Specialised(compact, {})
    with reports.evaluation(f"choices on {name}", options.tasks) as progress, matrix_precision("fp32"):
        read = read_by(compact, source, source.choosing.split, reports.evaluation)
        frozen = specialise(
            compact, config.steps, read.learned, read.episodes, source.choosing, range(options.tasks), progress
        )
    return replace(frozen, about={"data": name, "seen": seen, "tasks": options.tasks, **frozen.about})


# Steps


def _step_plan(source: Source, learned: MetaModel, options: ExportOptions, reports: Reports) -> StepPlan:
    """Chosen on validation episodes, unless --steps says how many."""
    if options.steps is not None or len(step_counts(source)) < 2:
        return StepPlan(source.config.steps)
    episodes = min(options.episodes, CHOOSING_EPISODES)
    with reports.evaluation("choose the steps", episodes * len(source.validating) * len(FACTORS)) as progress:
        plan = choose_steps(learned, source, episodes, progress, reports.evaluation)
    for shots, steps in plan.by_shots:
        counts = step_counts(source)
        reports.say(
            f"{count_text(steps, 'step')} for {count_text(shots, 'photo')} a class: the fewest of {counts[0]} to "
            f"{counts[-1]} that are as good as any on {episodes} validation episodes"
        )
    if plan.factor != 1:
        reports.say(f"inner rates are {plan.factor:g} of the trained ones, which is better there")
    return plan


def _planned(source: Source, exported: Specialised, plan: StepPlan) -> tuple[Source, Specialised]:
    """What a board with this plan runs. One that takes no steps needs no rule."""
    config, learned = replace(source.config, steps=plan.most), exported.learned
    if plan.factor != 1:
        config = replace(config, inner_lr=plan.factor * config.inner_lr, head_lr=plan.factor * config.head_lr)
        learned = replace(learned, rule=learned.rule.scaled(plan.factor))
    if not plan.most:
        learned = without_steps(learned, config)
    return replace(source, config=config), replace(exported, learned=learned)


# Trace, lower, passes


def _graphs(source: Source, learned: MetaModel, options: ExportOptions, reports: Reports) -> Graphs:
    """Traced and lowered, adapt.onnx streamed as --memory asks, predict.onnx quantised for --int8."""
    support = support_of(source.tensors.episode(_verified_episodes(source)[0]), source.config.ways)
    statistics = _start_statistics(learned, support)
    parted = halves(learned, highest_cut(learned))
    if parted.parts is not None:
        reports.say(f"learns from {parted.parts.cut.name}: what lies below runs once for each photo (trunk.onnx)")
    adapt = stream(board_step(parted), MEMORY[options.memory], source.sizes)
    predict = predict_graph(learned.model, learned.weights, statistics)
    int8, trunk, trunk_int8 = None, board_trunk(parted), None
    if source.calibrating is not None:
        with reports.evaluation("calibrate int8", EPISODES) as progress, matrix_precision("fp32"):
            int8 = quantise(
                predict, learned, source.config.steps, statistics, source.tensors, source.calibrating, progress
            )
        if trunk is not None:
            trunk_int8 = quantise_trunk(trunk, learned.weights, source.tensors, source.calibrating)
    return Graphs(parted, adapt, predict, trunk, int8, trunk_int8, statistics)


def _start_statistics(learned: MetaModel, support: Support) -> Statistics:
    """Normalisation statistics of an untaught bundle: those of one episode's support set. Teaching replaces them."""
    with torch.no_grad():
        images, shares = support.images.cpu(), support.shares.cpu()
        return body(learned.model, learned.weights, images, shares=shares).statistics


# Bundle


def _contents(learned: MetaModel, graphs: Graphs, unknown: Unknown) -> dict[str, bytes]:
    """The bundle's files but for the manifest."""
    top = graphs.halves.learned
    carried = {f"{RULE}{name}": top.rule.begin(top.weights)[name] for name in top.rule.carried}
    rows = initial_weights(learned.model, learned.weights, 1) if learned.model.spec.head == "prototype" else {}
    tensors = rows | learned.weights | graphs.statistics | carried
    weights = save({name: tensor.detach().float().numpy() for name, tensor in tensors.items()})
    contents = dict(zip(FILES, (graphs.predict.SerializeToString(), graphs.adapt.SerializeToString(), weights)))
    contents |= unknown.files
    if graphs.trunk is not None:
        contents[TRUNK_FILE] = graphs.trunk.SerializeToString()
    if graphs.trunk_int8 is not None:
        contents[TRUNK_INT8_FILE] = graphs.trunk_int8.SerializeToString()
    return contents | ({INT8_FILE: graphs.int8.graph.SerializeToString()} if graphs.int8 else {})


def _description(
    source: Source, output: Path, options: ExportOptions, compact: Compact, exported: Specialised, plan: StepPlan
) -> dict[str, Any]:
    """The manifest's entries on what was exported and how."""
    pruned, learned = compact.pruned, exported.learned
    return {
        **identity(output, source.config, pruned.spec, source.images, learned.rule, plan),
        "tensors": tensor_names(learned),
        "specialised": exported.about or None,
        "memory": options.memory,
        "ratio": {"asked": options.ratio, "reached": round(pruned.reached, 6), "round_to": pruned.round_to},
        "ticket": _ticket_entry(source.ticket, compact.ticket_kept),
        "params": {"before": parameters(source.dense), "after": parameters(learned.model)},
        "macs": {"before": source.dense.spec.macs, "after": pruned.spec.macs},
    }


def _ticket_entry(ticket: Ticket | None, kept: float | None) -> dict[str, Any] | None:
    if ticket is None or kept is None:
        return None
    return {"method": ticket.method, "unit": ticket.unit, "ratio": ticket.ratio, "kept": round(kept, 6)}


# Verify


def _verified(
    staging: Path, source: Source, learned: MetaModel, int8: Quantised | None, options: ExportOptions, reports: Reports
) -> dict[str, Any]:
    """The manifest's entries on what onnxruntime makes of the files in `staging`."""
    config, images = source.config, source.images
    verification = verify_bundle(staging, learned, config.steps, images, _verified_episodes(source))
    entries = {"verification": verification.as_dict()}
    if int8 is None:
        return entries
    with reports.evaluation("evaluate int8", options.episodes) as progress:
        accuracy = int8_accuracy(staging, images, source.tests[0], options.episodes, progress)
    entries |= {"int8": int8.about | {"accuracy": {config.normalization: accuracy}}}
    return entries | ({"precision": precision_for(accuracy)} if options.for_boards else {})


def _selftest(staging: Path) -> dict[str, bytes]:
    """What a board is to answer: device/selftest.py."""
    return {SELFTEST_FILE: make_selftest(read_bundle(staging, ANYBODY))}


def precision_for(accuracy: Mapping[str, Any]) -> str:
    """What Arm boards answer in. onnxruntime's int8 kernels take fewer instructions there than its float32 ones, of
    depthwise convolutions by far (docs/budget.md); half a point of accuracy is what that may cost."""
    return "int8" if accuracy["difference"]["accuracy"] >= -INT8_MOST_LOSS else "fp32"


def _verified_episodes(source: Source) -> list[EpisodeIndices]:
    return [source.sampler.draw(0, task, VERIFIED_EPISODES)[1] for task in range(VERIFIED_EPISODES)]
