"""From the paper's tables and figures to cells of a grid. A cell that several of them want is one cell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gems_edge.errors import UserError
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import as_values
from gems_edge.meta.settings.ticket import FROM_TRAINED
from gems_edge.reproduce.grid import Cell
from gems_edge.reproduce.tickets.protocol import SHARED_INIT, Preset, Setup

TEST_SEED = 1
# The tickets of the accuracy table, in the order of its rows.
METHODS = ("dense", "mwt", "rr", "rm", "sr", "snip", "pmt")
# Tables 2 and 3: whose costs they compare, and on which backbone.
COSTED = ("dense", "mwt", "pmt")
BACKBONES = {2: "conv4", 3: "resnet12"}
ACCURACY = "accuracy"  # the part of a reproduction that is neither a table nor a figure of the paper


@dataclass(frozen=True)
class Want:
    """One entry of a table or figure, and its cell: `variant` tells settings apart that the method does not."""

    setup: Setup
    method: str  # "dense" or a ticket
    ratio: float  # 0 for dense
    seed: int
    variant: str = ""
    ticket: tuple[tuple[str, Any], ...] = ()  # settings of the ticket apart from the setup's
    shared_init: bool = False  # initial weights of SHARED_INIT, episodes of the seed

    @property
    def name(self) -> str:
        parts = [
            self.method,
            f"{self.ratio:g}" if self.ratio else "",
            self.variant,
            "one-init" if self.shared_init else "",
        ]
        return f"{self.setup.name}/{'-'.join(filter(None, (*parts, f's{self.seed}')))}"

    @property
    def dense(self) -> "Want":
        """The dense network that the ticket is cut from."""
        return Want(self.setup, "dense", 0.0, self.seed, shared_init=self.shared_init)


def tables(preset: Preset, backbone: str | None = None) -> list[Want]:
    """The accuracy table: every method at every ratio, and (through their found tickets) Tables 2 and 3."""
    setups = preset.setups if backbone is None else preset.of_backbone(backbone)
    return [want for setup in setups for want in over(setup, METHODS, preset.ratios, preset.seeds)]


def over(setup: Setup, methods, ratios, seeds: int, **options: Any) -> list[Want]:
    """Methods × ratios × seeds, seed by seed, so that an interrupted grid has whole rows."""
    wants = []
    for seed in range(1, seeds + 1):
        for method in methods:
            for ratio in (0.0,) if method == "dense" else ratios:
                wants.append(Want(setup, method, ratio, seed, **options))
    return wants


def _variants(preset: Preset, setup: Setup, variants: dict[str, dict[str, Any]]) -> list[Want]:
    wants = over(setup, ("dense",), (), preset.seeds)
    for variant, settings in variants.items():
        options = {"variant": variant, "ticket": tuple(settings.items())} if settings else {}
        wants += over(setup, ("mwt",), preset.curve_ratios, preset.seeds, **options)
    return wants


def _first(preset: Preset, backbone: str) -> list[Setup]:
    """MAML on the first data set: what the paper's studies of masks use."""
    return list(preset.of_backbone(backbone)[:1])


def _both(preset: Preset) -> list[Setup]:
    return _first(preset, "conv4") + _first(preset, "resnet12")


def _tickets(preset: Preset, setups: list[Setup]) -> list[Want]:
    """Dense networks from one initialisation and several seeds: their masks are compared, nothing sparse is trained."""
    return [want for setup in setups for want in over(setup, ("dense",), (), preset.tickets, shared_init=True)]


def figure(preset: Preset, number: int) -> list[Want]:
    """The cells of one of the paper's figures; UserError for a number that it does not have, or without its backbone."""
    curve, seeds = preset.curve_ratios, preset.seeds
    match number:
        case 1:
            wants = [
                w
                for s in _both(preset)
                for w in _variants(preset, s, {"": {}, f"rounds{preset.rounds}": {"rounds": preset.rounds}})
            ]
        case 2:
            wants = [w for s in _both(preset) for w in _variants(preset, s, {"": {}, "layer": {"scope": "layer"}})]
        case 3 | 4:
            setups = preset.of_backbone("conv4" if number == 3 else "resnet12")
            wants = [w for s in setups for w in over(s, ("dense", "mwt", "rr", "rm"), curve, seeds)]
        case 5:
            kept = {f"k{k}" if k else "": {"rewind": k} if k else {} for k in preset.rewinds}
            wants = [w for s in _both(preset) for w in _variants(preset, s, kept)]
        case 6:
            wants = _tickets(preset, _both(preset))
        case 7 | 10:
            wants = _tickets(preset, _first(preset, "conv4"))
        case 8:
            wants = [w for s in _both(preset) for w in over(s, ("dense", "mwt", "sr", "omt", "pm"), curve, seeds)]
        case 9:
            wants = _tickets(preset, _both(preset))
        case 11 | 15:
            wants = _tickets(preset, _first(preset, "resnet12"))
        case 12 | 13:
            setups = preset.of_backbone("conv4" if number == 12 else "resnet12")
            wants = [w for s in setups for w in over(s, ("dense", "mwt", "pmt", "sr", "rm", "snip"), curve, seeds)]
        case 14:
            wants = [
                w for s in _both(preset) for w in over(s, ("dense", "mwt"), curve, preset.tickets, shared_init=True)
            ]
        case _:
            raise UserError(f"--figure {number}: the paper has figures 1 to 15")
    if not wants:
        raise UserError(f"--figure {number} needs a backbone or data that preset {preset.name} was not given")
    return wants


def table(preset: Preset, number: int) -> list[Want]:
    """The cells of Table 2 or 3; UserError for another number, or without a setup of its backbone."""
    if number not in BACKBONES:
        raise UserError(f"--table {number}: the paper's tables of costs are 2 and 3")
    setups = preset.of_backbone(BACKBONES[number])
    if not setups:
        raise UserError(f"--table {number} needs a backbone or data that preset {preset.name} was not given")
    return [want for setup in setups for want in over(setup, COSTED, preset.ratios, preset.seeds)]


def parts(
    preset: Preset, numbers: Sequence[int] = (), figures: Sequence[int] = (), methods: Sequence[str] = ()
) -> dict[str, list[Want]]:
    """What a reproduction consists of: "table 2", "figure 3", … → its entries; the accuracy table if none is asked for.

    `methods` cuts every part down to those, and to the dense networks that they are cut from. UserError for a number that
    the paper does not have, and methods that a part does not have.
    """
    wanted = {f"table {number}": table(preset, number) for number in sorted(set(numbers))}
    wanted |= {f"figure {number}": figure(preset, number) for number in sorted(set(figures))}
    if not wanted:
        wanted[ACCURACY] = tables(preset, "conv4")
        if not wanted[ACCURACY]:
            raise UserError(f"preset {preset.name} was given no data for its Conv-4 setups; add --data NAME=SPEC")
    return {part: _only(wants, methods, part) for part, wants in wanted.items()} if methods else wanted


def _only(wants: list[Want], methods: Sequence[str], part: str) -> list[Want]:
    kept = {want for want in wants if want.method in methods}
    if not kept:
        has = ", ".join(dict.fromkeys(want.method for want in wants))
        raise UserError(f"--method {', '.join(methods)}: {part} has none of these; it has {has}")
    needed = {want.dense for want in kept if _cut_from_dense(want)}
    return [want for want in wants if want in kept | needed]


def cells(preset: Preset, wants: list[Want]) -> list[Cell]:
    """The cells of `wants` and the dense ones that they need, each once; dense ones before the tickets cut from them."""
    everything: dict[str, Cell] = {}
    for want in wants:
        needs = ()
        if _cut_from_dense(want):
            everything.setdefault(want.dense.name, _cell(preset, want.dense))
            needs = (want.dense.name,)
        everything.setdefault(want.name, _cell(preset, want, needs))
    return list(everything.values())


def _cut_from_dense(want: Want) -> bool:
    return want.method in FROM_TRAINED and dict(want.ticket).get("rounds", 1) == 1


def _cell(preset: Preset, want: Want, needs: tuple[str, ...] = ()) -> Cell:
    setup = want.setup
    config = replace(setup.config, seed=want.seed, init_seed=SHARED_INIT if want.shared_init else -1)
    if want.method == "dense":
        rewinds = Kept(tuple(k for k in preset.rewinds if k))
        config = replace(config, keep=setup.looks if want.shared_init else rewinds)
    else:
        settings = {**dict(want.ticket), "method": want.method, "ratio": want.ratio}
        config = replace(config, ticket=replace(setup.ticket, **settings))
    task = {
        "name": want.name, "config": as_values(config), "dense": needs[0] if needs else "",
        "episodes": preset.episodes, "seed": TEST_SEED,
    }  # fmt: skip
    return Cell(want.name, task, needs)
