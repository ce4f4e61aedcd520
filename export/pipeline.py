"""From a run to a bundle: prune, recover, trace, verify, write."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from gems_edge.cost.graph import adapt_peak, describe
from gems_edge.data.episodes import EpisodeSampler
from gems_edge.data.mixture import (
    MixtureSampler,
    distribution_name,
    load_mixture,
    mixture_sampler,
    own_specs,
    split_specs,
)
from gems_edge.data.tensors import Episode, EpisodeTensors, episode_tensors
from gems_edge.errors import UserError
from gems_edge.export.bundle import check_target, write_bundle
from gems_edge.export.graphs import CLASSES, IMAGES, RULE, adapt_graph, predict_graph
from gems_edge.export.manifest import identity, parameters, provenance, tensor_names
from gems_edge.export.quantise import EPISODES, check_quantisable, quantise
from gems_edge.export.specialise import Specialised, specialise
from gems_edge.export.streaming import MEMORY, stream
from gems_edge.export.verify import int8_accuracy, verify_bundle
from gems_edge.files import write_atomic
from gems_edge.meta.allocator import keep_freed_memory
from gems_edge.meta.config import TrainConfig, write_config
from gems_edge.meta.evaluate import evaluate, mean_accuracy, mean_over_distributions, modes_for
from gems_edge.meta.methods import rule_of
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.processes import single_process, start_processes
from gems_edge.meta.run import Run
from gems_edge.meta.ticket_config import TicketConfig
from gems_edge.meta.train import train
from gems_edge.models.fewshot import FewShotModel, Weights, forward
from gems_edge.models.layers import Statistics
from gems_edge.models.spec import ModelSpec
from gems_edge.models.ticket import Ticket
from gems_edge.tickets.channels import TOLERANCE, Pruned, check_ratio, prune, remove_channels

VERIFIED_EPISODES = 5


@dataclass(frozen=True)
class ExportOptions:
    ratio: float
    recover_iterations: int | None  # None: a quarter of the run's
    round_to: int
    episodes: int  # for the accuracies in the manifest
    seed: int
    device: str = "auto"  # for recovery and evaluation
    root: Path | None = None
    for_data: str | None = None  # the distribution to freeze a GEMS run's choices for
    tasks: int = 100  # validation tasks that decide what is frozen
    int8: bool = False  # write predict.int8.onnx too
    memory: str = "balanced"  # how much adapt.onnx may take: streaming.MEMORY


@dataclass(frozen=True)
class Reports:
    """How the pipeline tells what it is doing; a display is open only while its phase runs."""

    say: Callable[[str], None]
    training: Callable[[], AbstractContextManager] = nullcontext
    evaluation: Callable[[str, int], AbstractContextManager] = lambda label, total: nullcontext()


def export_run(directory: Path, output: Path, options: ExportOptions, reports: Reports) -> dict[str, Any]:
    """Export the run in `directory` to the bundle `output`; returns the manifest.

    Raises UserError for a ratio that the network cannot meet, a network that cannot be exported, and a bundle that
    does not reproduce torch's results; `output` is then what it was before.
    """
    single_process("export")
    run = Run(directory)
    if options.for_data:
        options = replace(options, for_data=own_specs(options.for_data, run.config().data))
    run = _own_run(run, options, reports)
    config = replace(board_config(run.config()), device=options.device)
    place = start_processes(options.device).device
    model, weights = run.model(config)
    dense, ticket = FewShotModel(config.model_spec()), run.ticket(config)
    ratio = remaining_ratio(dense.spec, model.spec, options.ratio)
    check_ratio(model.spec, ratio)
    check_target(output)
    keep_freed_memory()
    images = load_mixture(
        options.for_data or config.data, image_size=config.image_size, channels=config.channels, root=options.root
    )
    if options.for_data and len(images.names) > 1:
        raise UserError(f"--for-data {options.for_data}: a bundle is specialised for one image set; give one")
    protocol = (config.ways, config.shots, config.queries, options.seed)
    sampler = mixture_sampler(images, "test", *protocol)
    # Made here, so that images that cannot give it are refused before anything is trained.
    choosing = mixture_sampler(images, "val", *protocol).samplers[0] if options.for_data else None
    if options.int8:
        check_quantisable(config.normalization)
    calibrating = mixture_sampler(images, "val", *protocol) if options.int8 else None
    rule, tensors = rule_of(config), episode_tensors(images, place)
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
        pruned = recover(run, config, pruned, options, reports)
        compact = FewShotModel(pruned.spec)

    def accuracies(name: str, subject: Specialised) -> dict[str, Any]:
        with reports.evaluation(f"evaluate {name}", options.episodes) as progress, matrix_precision("fp32"):
            return _accuracies(subject, tensors, sampler, config, options.episodes, place, progress)

    exported = whole = Specialised(compact, pruned.weights, rule, {})
    if choosing is not None:
        exported = _specialised(whole, config, tensors, images.names[0], choosing, options, reports)
    reports.say(f"accuracy over {options.episodes} test episodes of {', '.join(images.names)} …")
    before = accuracies("the run", Specialised(model, weights, rule, {}))
    after = accuracies("what is exported", exported) if ratio or exported.about else before
    compact, learned, rule = exported.model, exported.weights, exported.rule
    episodes = [sampler.draw(0, task, VERIFIED_EPISODES)[1] for task in range(VERIFIED_EPISODES)]
    statistics = _start_statistics(compact, learned, tensors.episode(episodes[0]))
    sizes = {IMAGES: config.ways * config.shots, CLASSES: config.ways}
    adapt = stream(adapt_graph(compact, learned, rule), MEMORY[options.memory], sizes)
    predict = predict_graph(compact, learned, statistics)
    int8 = None
    if calibrating is not None:
        with reports.evaluation("calibrate int8", EPISODES) as progress, matrix_precision("fp32"):
            int8 = quantise(compact, learned, rule, config.steps, statistics, tensors, calibrating, progress)
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
            "adapt_step": describe(adapt, sizes),
            "adapt_peak": adapt_peak(adapt, sizes),
        },
        **({"int8": int8.about} if int8 else {}),
        "provenance": provenance(run, config),
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


def _own_run(run: Run, options: ExportOptions, reports: Reports) -> Run:
    """`run`, or of a multi-maml run the one of the distribution that the bundle is for."""
    parts = run.distributions()
    if not parts:
        return run
    name = options.for_data and distribution_name(options.for_data)
    if name not in parts:
        raise UserError(
            f"{run.directory} holds one model for each distribution; choose one with --for-data {'|'.join(parts)}"
        )
    reports.say(f"{run.directory}: the model of {name}")
    return parts[name]


def _specialised(
    whole: Specialised, config: TrainConfig, tensors: EpisodeTensors, name: str, sampler: EpisodeSampler,
    options: ExportOptions, reports: Reports,
) -> Specialised:  # fmt: skip
    """What the run decides for --for-data, frozen; as it is where its method decides nothing."""
    seen = name in map(distribution_name, split_specs(config.data))
    if not seen:
        reports.say(f"{name} is none of the run's image sets ({config.data}): frozen for a distribution it never saw")
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


def _accuracies(
    subject: Specialised, tensors: EpisodeTensors, sampler: MixtureSampler, config: TrainConfig, episodes: int, place,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:  # fmt: skip
    """Mode → accuracy over `episodes`, spread evenly over the distributions, and each distribution's own."""
    each, found = max(2, -(-episodes // len(sampler.samplers))), {}
    for source, (name, one) in enumerate(zip(sampler.names, sampler.samplers)):
        found[name] = evaluate(
            subject.model.to(place), subject.weights, tensors, one, subject.rule, steps=[config.steps],
            modes=modes_for(config.normalization), tasks=range(each),
            progress=progress and (lambda done, source=source: progress(source * each + done)),
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


def remaining_ratio(dense: ModelSpec, trained: ModelSpec, ratio: float) -> float:
    """The share of the trained network's weights that is still to go, so that `ratio` of the dense one's are gone.

    0 where a channel ticket has removed as much (within the tolerance of pruning) or more.
    """
    if not 0 <= ratio < 1 or trained.widths == dense.widths:
        return ratio
    left = trained.backbone_weights / dense.backbone_weights
    return 0.0 if 1 - left >= ratio - TOLERANCE else 1 - (1 - ratio) / left


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


def board_config(config: TrainConfig) -> TrainConfig:
    """A board sees one image at a time, so a transductive run is exported in mode "support"."""
    return replace(config, normalization="support") if config.normalization == "transductive" else config


def recover(run: Run, config: TrainConfig, pruned: Pruned, options: ExportOptions, reports: Reports) -> Pruned:
    """Meta-train the compact network from its pruned weights, as a run inside the run: it resumes, and can be evaluated."""
    iterations = config.iterations // 4 if options.recover_iterations is None else options.recover_iterations
    if not iterations:
        return pruned
    widths = ",".join(str(width) for width in pruned.spec.widths)
    wanted = replace(
        config, widths=widths, iterations=iterations, seed=config.seed + 1, init_seed=-1, keep="", ticket=TicketConfig()
    )
    name = f"{options.ratio:g}-{options.round_to}-{iterations}"
    inner = Run(run.directory / "compact" / name)
    start = save({name: tensor.contiguous() for name, tensor in pruned.weights.items()})
    if inner.directory.exists() and not _continues(inner, wanted, start):
        shutil.rmtree(inner.directory)
    if not inner.config_path.exists():
        inner.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(inner.initial_path, start)
        write_config(inner.config_path, wanted)
    reports.say(f"recover: {iterations} iterations of the compact network ({inner.directory})")
    with reports.training() as progress:
        best = train(
            inner, wanted, resume=True, initial=load_file(inner.initial_path), progress=progress, root=options.root
        )
    reports.say(f"recovered to {100 * best['accuracy']:.1f} ± {100 * best['ci95']:.1f} % on validation")
    return replace(pruned, weights=inner.model()[1])


def _continues(inner: Run, wanted: TrainConfig, start: bytes) -> bool:
    """Whether the compact run in `inner` is the same recovery, begun or finished."""
    try:
        return replace(inner.config(), device=wanted.device) == wanted and inner.initial_path.read_bytes() == start
    except (UserError, OSError):
        return False


def _start_statistics(model: FewShotModel, weights: Weights, episode: Episode) -> Statistics:
    """Normalisation statistics of an untaught bundle: those of one episode's support set. Teaching replaces them."""
    with torch.no_grad():
        return forward(model, weights, episode.support_images.cpu())[1]
