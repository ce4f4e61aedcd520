"""From GEMS's tables to cells of a grid: one cell is one training. What several tables want is one cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gems_edge.errors import UserError
from gems_edge.meta.settings.base import to_table
from gems_edge.reproduce.gems.protocol import MULTI, PROTOTYPES, GemsPreset
from gems_edge.reproduce.grid import Cell
from gems_edge.reproduce.job import Document
from gems_edge.reproduce.pooling import Entry
from gems_edge.reproduce.protocol import TEST_SEED, Setup, Trial
from gems_edge.reproduce.results import Row, Rows

# Settings of what is a variant of a method; those of the config's adapter begin with "adapter.", in trials too.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "bmp-rates": {"method": "bmp", "adapter.rate": "layer"}, PROTOTYPES: {"method": "maml", "steps": 0},
    # Controls: no training moves such a logit below 0, so that the masks stay on and the rates alone are learned.
    "bmp-on": {"method": "bmp", "adapter.mask_logit": 1e3},
    "rates-on": {"method": "bmp", "adapter.rate": "layer", "adapter.mask_logit": 1e3},
}  # fmt: skip
# Layers of Conv-4, for Table 4: four blocks and the head.
LAYERS = 5

GemsTrial = Trial[Setup]
GemsRow = Row[Setup]
GemsRows = Rows[Setup]


def trainings(preset: GemsPreset, trial: GemsTrial) -> list[GemsTrial]:
    """The trial itself; of Multi-MAML, MAML on each of its distributions."""
    if trial.method != MULTI:
        return [trial]
    return [Trial(preset.setup((name,)), "maml", trial.seed) for name in trial.setup.sets]


def parts(preset: GemsPreset, numbers: Sequence[int] = (), methods: Sequence[str] = ()) -> dict[str, list[GemsTrial]]:
    """ "table 1", … → its trials; the preset's plain ones if none is asked for. `methods` cuts them down to those.

    UserError for a table that the preset does not have, one that these data cannot give, and methods that no table has.
    """
    for number in numbers:
        if number not in preset.tables:
            known = f"{preset.tables[0]} to {preset.tables[-1]}"
            raise UserError(f"--table {number}: the preset {preset.name} has tables {known}")
    wanted = {number: table(preset, number) for number in sorted(set(numbers)) or preset.plain}
    if 2 in numbers and not wanted[2]:
        raise UserError("--table 2 tests on distributions that were not trained; give one more set of images")
    if methods:
        wanted = {n: [trial for trial in trials if trial.method in methods] for n, trials in wanted.items()}
        if not any(wanted.values()):
            tables = ", ".join(map(str, sorted(set(numbers)) or preset.plain))
            raise UserError(f"--method {', '.join(methods)}: table {tables} has none of these")
    return {f"table {number}": trials for number, trials in wanted.items() if trials}


def table(preset: GemsPreset, number: int) -> list[GemsTrial]:
    """The trials of one table, seed by seed, so that an interrupted grid has whole comparisons."""
    return [trial for seed in range(1, preset.seeds + 1) for trial in _of_table(preset, number, seed)]


def _of_table(preset: GemsPreset, number: int, seed: int) -> list[GemsTrial]:
    if number in (1, 2):
        setups = [setup for setup in preset.setups if number == 1 or preset.unseen(setup.sets)]
        return [Trial(setup, method, seed) for setup in setups for method in preset.rows]
    if number == 5:  # the paper's reference is MAML with the most steps
        trials = [_with_steps(preset, "maml", max(preset.steps), seed)]
        return trials + [_with_steps(preset, m, steps, seed) for m in ("bmp", "mmsup") for steps in preset.steps]
    sparsities: dict[str, tuple[float, ...]] = {f"sparsity{sparsity:g}": (sparsity,) for sparsity in preset.sparsities}
    if number == 4:
        values = [[preset.depth_sparsity * (layer == sparse) for layer in range(LAYERS)] for sparse in range(LAYERS)]
        sparsities = {f"depth{layer}": tuple(each) for layer, each in enumerate(values, 1)}
    setup, settings = preset.setups[0], {name: (("adapter.sparsity", each),) for name, each in sparsities.items()}
    sparse = [Trial(setup, "mmsup", seed, variant=name, settings=each) for name, each in settings.items()]
    return [Trial(setup, "maml", seed), Trial(setup, "mmsup", seed), *sparse]


def _with_steps(preset: GemsPreset, method: str, steps: int, seed: int) -> GemsTrial:
    """The plain cell where that is its number of steps anyway."""
    if steps == steps_of(preset, method):
        return Trial(preset.setups[0], method, seed)
    return Trial(preset.setups[0], method, seed, variant=f"steps{steps}", settings=(("steps", steps),))


def steps_of(preset: GemsPreset, method: str, variant: str = "") -> int:
    if variant.startswith("steps"):
        return int(variant.removeprefix("steps"))
    steps: int = _settings(preset, method).get("steps", preset.config.steps)
    return steps


def _settings(preset: GemsPreset, method: str) -> dict[str, Any]:
    return {"method": method, **VARIANTS.get(method, {}), **preset.methods.get(method, {})}


def cells(preset: GemsPreset, trials: Iterable[GemsTrial]) -> list[Cell]:
    """The trainings of `trials`, each once, in their order."""
    each = dict.fromkeys(training for trial in trials for training in trainings(preset, trial))
    return [_cell(preset, training) for training in each]


def _cell(preset: GemsPreset, trial: GemsTrial) -> Cell:
    setup, settings = trial.setup, _settings(preset, trial.method) | dict(trial.settings)
    adapter = {key.removeprefix("adapter."): value for key, value in settings.items() if key.startswith("adapter.")}
    plain = {key: value for key, value in settings.items() if not key.startswith("adapter.")}
    config = replace(setup.config, seed=trial.seed, adapter=replace(setup.config.adapter, **adapter), **plain)
    # Variants are compared on what they were trained on; the plain cells serve Table 2 too.
    tested = setup.sets if trial.variant else (*setup.sets, *preset.unseen(setup.sets))
    task = {
        "name": trial.name, "config": to_table(config),
        "test": {name: preset.data[name] for name in tested}, "episodes": preset.episodes, "seed": TEST_SEED,
    }  # fmt: skip
    return Cell(trial.name, task)


# --- Multi-MAML ---

TIMES = ("cpu_seconds", "seconds")


def with_multi_maml(
    preset: GemsPreset, trials: Iterable[GemsTrial], results: Mapping[str, Document]
) -> dict[str, Document]:
    """`results`, and those of the Multi-MAML among `trials` all of whose trainings are done."""
    joint: dict[str, Document] = dict(results)
    for trial in trials:
        names = [training.name for training in trainings(preset, trial)]
        if trial.method == MULTI and all(name in results for name in names):
            joint[trial.name] = together(trial.setup.sets, [results[name] for name in names])
    return joint


def together(sets: Sequence[str], documents: Sequence[Document]) -> dict[str, Any]:
    """Multi-MAML, from the results of MAML on each distribution of `sets`.

    A distribution that it is trained on has its own model's accuracy, another one the mean over the models; its
    interval is the mean of theirs: never too narrow, for the models answer the same episodes. Times are sums.
    """
    models = dict(zip(sets, documents))
    tested = [name for name in documents[0]["accuracy"] if all(name in document["accuracy"] for document in documents)]
    accuracy = {}
    for name in dict.fromkeys((*sets, *tested)):
        answers = [document["accuracy"][name] for document in ([models[name]] if name in models else documents)]
        accuracy[name] = {mode: _mean([answer[mode] for answer in answers]) for mode in answers[0]}
    training = {key: sum(document["training"][key] for document in documents) for key in (*TIMES, "iterations")}
    return {"accuracy": accuracy, "training": training}


def _mean(entries: Sequence[Entry]) -> Entry:
    if len(entries) == 1:
        return entries[0]
    return {key: sum(e[key] for e in entries) / len(entries) for key in ("accuracy", "ci95", "episodes")}
