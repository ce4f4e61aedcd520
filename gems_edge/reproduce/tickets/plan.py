"""From the paper's tables and figures to cells of a grid. A cell that several of them want is one cell."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gems_edge.errors import UserError
from gems_edge.meta.settings.base import to_table
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.ticket import FROM_TRAINED
from gems_edge.reproduce.grid import Cell
from gems_edge.reproduce.protocol import TEST_SEED, Trial
from gems_edge.reproduce.results import Row, Rows
from gems_edge.reproduce.tickets.protocol import ONE_START, START_SEED, TicketPreset, TicketSetup

# The tickets of the accuracy table, in the order of its rows.
METHODS = ("dense", "mwt", "rr", "rm", "sr", "snip", "pmt")
# The methods whose costs Tables 2 and 3 compare, and the backbone of each table.
COSTED = ("dense", "mwt", "pmt")
BACKBONES = {2: "conv4", 3: "resnet12"}
CONTROLS = "controls"  # what shows what a result of MWT is worth, see `controls`
ACCURACY = "accuracy"  # the part of a reproduction that is neither a table nor a figure of the paper

# The methods in each figure of accuracy over the share removed.
_TICKETS, _BASELINES = ("dense", "mwt", "rr", "rm"), ("dense", "mwt", "pmt", "sr", "rm", "snip")
CURVES = {3: _TICKETS, 4: _TICKETS, 8: ("dense", "mwt", "sr", "omt", "pm"), 12: _BASELINES, 13: _BASELINES}
# Figures of one backbone; the others have both.
FIGURES = {"conv4": (3, 7, 10, 12), "resnet12": (4, 11, 13, 15)}
# Figures that compare the masks of several dense networks from one initialisation; nothing sparse is trained for them.
MASKS = (6, 7, 9, 10, 11, 15)

TicketTrial = Trial[TicketSetup]
TicketRow = Row[TicketSetup]
TicketRows = Rows[TicketSetup]


def over(
    setup: TicketSetup, methods: Iterable[str], ratios: Sequence[float], seeds: int, **options: Any
) -> list[TicketTrial]:
    """Methods × ratios × seeds, seed by seed, so that an interrupted grid has whole rows."""
    return [
        Trial(setup, method, seed, ratio, **options)
        for seed in range(1, seeds + 1)
        for method in methods
        for ratio in ((0.0,) if method == "dense" else ratios)
    ]


def figure(preset: TicketPreset, number: int) -> list[TicketTrial]:
    """The trials of one of the paper's figures; UserError for a number that it lacks."""
    if not 1 <= number <= 15:
        raise UserError(f"--figure {number}: the paper has figures 1 to 15")
    return [trial for setup in _setups(preset, number) for trial in _of_figure(preset, setup, number)]


def _setups(preset: TicketPreset, number: int) -> Sequence[TicketSetup]:
    """Tickets are studied on all setups of a backbone, masks and variants on the first: MAML on the first data set."""
    backbones = [backbone for backbone, figures in FIGURES.items() if number in figures] or FIGURES
    setups = [preset.of_backbone(backbone) for backbone in backbones]
    return [setup for group in setups for setup in (group if number in (3, 4, 12, 13) else group[:1])]


def _of_figure(preset: TicketPreset, setup: TicketSetup, number: int) -> list[TicketTrial]:
    match number:
        case 1:
            return _variants(preset, setup, {"": {}, f"rounds{preset.rounds}": {"rounds": preset.rounds}})
        case 2:
            return _variants(preset, setup, {"": {}, "layer": {"scope": "layer"}})
        case 5:
            return _variants(preset, setup, {f"k{k}" if k else "": {"rewind": k} if k else {} for k in preset.rewinds})
        case 14:
            return over(setup, ("dense", "mwt"), preset.curve_ratios, preset.tickets, variant=ONE_START)
    if number in MASKS:
        return over(setup, ("dense",), (), preset.tickets, variant=ONE_START)
    return over(setup, CURVES[number], preset.curve_ratios, preset.seeds)


def _variants(preset: TicketPreset, setup: TicketSetup, variants: Mapping[str, Mapping[str, Any]]) -> list[TicketTrial]:
    """MWT with other settings (variant → what its ticket has other than the setup's), and the dense networks."""
    trials = over(setup, ("dense",), (), preset.seeds)
    for variant, settings in variants.items():
        options = {"variant": variant, "settings": tuple(settings.items())}
        trials += over(setup, ("mwt",), preset.curve_ratios, preset.seeds, **options)
    return trials


def controls(preset: TicketPreset, setup: TicketSetup) -> list[TicketTrial]:
    """MWT, and what it has to be better than to be worth its search: the mask of the untrained weights, whole channels
    as the unit, a dense network of as many weights (narrower), and one trained for so many iterations less.

    A mask from another start is RR: its weights are drawn anew.
    """
    trials = over(setup, ("dense", "mwt", "untrained"), preset.ratios, preset.seeds)
    channel = (("unit", "channel"), ("round_to", 2))
    trials += over(setup, ("mwt",), preset.ratios, preset.seeds, variant="channel", settings=channel)
    for ratio in preset.ratios:
        widths = tuple(max(1, round(width * math.sqrt(1 - ratio))) for width in setup.config.widths)
        iterations = round(setup.config.iterations * (1 - ratio))
        less = {"narrow": (("widths", widths),), "short": (("iterations", iterations),)}
        trials += [
            Trial(setup, "dense", seed, ratio, variant, settings)
            for variant, settings in less.items()
            for seed in range(1, preset.seeds + 1)
        ]
    return trials


def table(preset: TicketPreset, number: int) -> list[TicketTrial]:
    """The trials of Table 2 or 3; UserError for another number."""
    if number not in BACKBONES:
        raise UserError(f"--table {number}: the paper's tables of costs are 2 and 3")
    setups = preset.of_backbone(BACKBONES[number])
    return [trial for setup in setups for trial in over(setup, COSTED, preset.ratios, preset.seeds)]


def parts(
    preset: TicketPreset, numbers: Sequence[int] = (), figures: Sequence[int] = (), methods: Sequence[str] = ()
) -> dict[str, list[TicketTrial]]:
    """What a reproduction consists of: "table 2", "figure 3", … → its trials; the accuracy table, and the preset's own
    figures, if none is asked for.

    That has every method at every ratio, and so Table 2 too. `methods` cuts every part down to those, and to the dense
    networks that they are cut from. UserError for a number that the paper lacks, and for a part that has no data or
    none of the methods.
    """
    plain = not (numbers or figures)
    figures = preset.figures if plain and not methods else figures
    wanted = {f"table {number}": table(preset, number) for number in sorted(set(numbers))}
    wanted |= {f"figure {number}": figure(preset, number) for number in sorted(set(figures))}
    for part, trials in wanted.items():
        if not trials:
            raise UserError(f"--{part} needs a backbone or data that preset {preset.name} was not given")
    if plain:
        setups = preset.of_backbone("conv4")
        if not setups:
            raise UserError(f"preset {preset.name} was given no data for its Conv-4 setups; add --data NAME=SPEC")
        answered = [trial for setup in setups for trial in over(setup, METHODS, preset.ratios, preset.seeds)]
        wanted = {ACCURACY: answered, **wanted}
        if preset.controls and not methods:
            wanted[CONTROLS] = controls(preset, setups[0])
    return {part: _only(trials, methods, part) for part, trials in wanted.items()} if methods else wanted


def _only(trials: list[TicketTrial], methods: Sequence[str], part: str) -> list[TicketTrial]:
    kept = {trial for trial in trials if trial.method in methods}
    if not kept:
        has = ", ".join(dict.fromkeys(trial.method for trial in trials))
        raise UserError(f"--method {', '.join(methods)}: {part} has none of these; it has {has}")
    kept |= {dense for trial in kept if (dense := _cut_from(trial))}
    return [trial for trial in trials if trial in kept]


def _cut_from(trial: TicketTrial) -> TicketTrial | None:
    """The dense network that the ticket is cut from; None for one that finds its own."""
    if trial.method not in FROM_TRAINED or dict(trial.settings).get("rounds", 1) > 1:
        return None
    return Trial(trial.setup, "dense", trial.seed, variant=start(trial.variant))


def start(variant: str) -> str:
    """The variant of the dense networks, and of MWT, that begin with the same weights as a row of `variant`."""
    return ONE_START if variant == ONE_START else ""


def cells(preset: TicketPreset, trials: Iterable[TicketTrial]) -> list[Cell]:
    """The cells of `trials` and the dense ones that they need, each once and before the tickets cut from it.

    Setup by setup and in it seed by seed, so that a grid that ends early has whole comparisons.
    """
    ordered: dict[str, Cell] = {}
    for trial in sorted(trials, key=lambda trial: (preset.setups.index(trial.setup), trial.seed)):
        dense = _cut_from(trial)
        if dense:
            ordered.setdefault(dense.name, _cell(preset, dense, None))
        ordered.setdefault(trial.name, _cell(preset, trial, dense))
    return list(ordered.values())


def _cell(preset: TicketPreset, trial: TicketTrial, dense: TicketTrial | None) -> Cell:
    setup = trial.setup
    config = replace(setup.config, seed=trial.seed, init_seed=START_SEED if trial.variant == ONE_START else -1)
    if trial.method == "dense":
        rewinds = Kept(tuple(k for k in preset.rewinds if k))
        config = replace(config, keep=setup.looks if trial.variant == ONE_START else rewinds, **dict(trial.settings))
    else:
        settings = {**dict(trial.settings), "method": trial.method, "ratio": trial.ratio}
        config = replace(config, ticket=replace(setup.ticket, **settings))
    task = {
        "name": trial.name, "config": to_table(config), "dense": dense.name if dense else "",
        "episodes": preset.episodes, "seed": TEST_SEED,
    }  # fmt: skip
    return Cell(trial.name, task, (dense.name,) if dense else ())
