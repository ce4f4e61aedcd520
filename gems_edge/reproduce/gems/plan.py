"""From GEMS's tables to cells of a grid: one cell is one training. What several tables want is one cell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gems_edge.errors import UserError
from gems_edge.meta.settings.run import as_values
from gems_edge.reproduce.gems.protocol import Mixture, Preset
from gems_edge.reproduce.grid import Cell

TEST_SEED = 1
MULTI = "multi-maml"
# The rows of Tables 1 and 2; ANIL, BOIL and BMP with a rate for each layer are ours.
METHODS = ("maml", MULTI, "bmp", "mmsup", "anil", "boil", "bmp-rates")
# Settings of what is a variant of a method.
VARIANTS = {"bmp-rates": {"method": "bmp", "adapter.rate": "layer"}}
TABLES = (1, 2, 3, 4, 5)
DEFAULT_TABLES = (1, 2)
# Layers of Conv-4, for Table 4: four blocks and the head.
LAYERS = 5


@dataclass(frozen=True)
class Want:
    """A row of a table with one seed. `variant` tells settings apart that the method does not."""

    mixture: Mixture
    method: str
    seed: int
    variant: str = ""
    settings: tuple[tuple[str, Any], ...] = ()  # of the config; those of the adapter begin with "adapter."

    @property
    def name(self) -> str:
        """Of its cell; Multi-MAML has none of its own (see `trainings`)."""
        return f"{'+'.join(self.mixture)}/{'-'.join(filter(None, (self.method, self.variant, f's{self.seed}')))}"

    @property
    def trainings(self) -> tuple["Want", ...]:
        """Itself, or MAML on each of its distributions."""
        if self.method != MULTI:
            return (self,)
        return tuple(Want((name,), "maml", self.seed) for name in self.mixture)


def parts(preset: Preset, numbers: Sequence[int] = (), methods: Sequence[str] = ()) -> dict[int, list[Want]]:
    """Table → its rows; Tables 1 and 2 if none is asked for. `methods` cuts them down to those.

    UserError for a table that the paper does not have, one that these data cannot give, and methods that no table has.
    """
    for number in numbers:
        if number not in TABLES:
            raise UserError(f"--table {number}: the paper has tables 1 to 5")
    wanted = {number: table(preset, number) for number in sorted(set(numbers)) or DEFAULT_TABLES}
    if 2 in numbers and not wanted[2]:
        raise UserError("--table 2 tests on distributions that were not trained; give one more set of images")
    wanted = {number: wants for number, wants in wanted.items() if wants}
    if methods:
        wanted = {
            n: kept for n, wants in wanted.items() if (kept := [want for want in wants if want.method in methods])
        }
        if not wanted:
            raise UserError(f"--method {', '.join(methods)}: table {', '.join(map(str, numbers))} has none of these")
    return wanted


def table(preset: Preset, number: int) -> list[Want]:
    """The rows of one table, seed by seed, so that an interrupted grid has whole comparisons."""
    wants = []
    for seed in range(1, preset.seeds + 1):
        match number:
            case 1:
                wants += [Want(mixture, method, seed) for mixture in preset.mixtures for method in METHODS]
            case 2:
                mixtures = [mixture for mixture in preset.mixtures if preset.unseen(mixture)]
                wants += [Want(mixture, method, seed) for mixture in mixtures for method in METHODS]
            case 3:
                wants += _references(preset, seed)
                wants += [_sparse(preset, seed, (sparsity,), f"sparsity{sparsity:g}") for sparsity in preset.sparsities]
            case 4:
                wants += _references(preset, seed)
                for layer in range(LAYERS):
                    shares = tuple(preset.depth_sparsity if n == layer else 0.0 for n in range(LAYERS))
                    wants.append(_sparse(preset, seed, shares, f"depth{layer + 1}"))
            case 5:
                # The paper's reference is MAML with the most steps.
                wants.append(_with_steps(preset, "maml", max(preset.steps), seed))
                wants += [
                    _with_steps(preset, method, steps, seed) for method in ("bmp", "mmsup") for steps in preset.steps
                ]
    return wants


def _references(preset: Preset, seed: int) -> list[Want]:
    return [Want(preset.ablation, method, seed) for method in ("maml", "mmsup")]


def _sparse(preset: Preset, seed: int, sparsity: tuple[float, ...], variant: str) -> Want:
    return Want(preset.ablation, "mmsup", seed, variant, (("adapter.sparsity", sparsity),))


def _with_steps(preset: Preset, method: str, steps: int, seed: int) -> Want:
    """The plain cell where that is its number of steps anyway."""
    if steps == _settings(preset, method).get("steps", preset.config.steps):
        return Want(preset.ablation, method, seed)
    return Want(preset.ablation, method, seed, f"steps{steps}", (("steps", steps),))


def steps_of(preset: Preset, want_method: str, variant: str) -> int:
    """The inner steps of a row."""
    if variant.startswith("steps"):
        return int(variant.removeprefix("steps"))
    return _settings(preset, want_method).get("steps", preset.config.steps)


def _settings(preset: Preset, method: str) -> dict[str, Any]:
    return {"method": method, **VARIANTS.get(method, {}), **preset.methods.get(method, {})}


def cells(preset: Preset, wants: Sequence[Want]) -> list[Cell]:
    """The trainings of `wants`, each once, in their order."""
    trainings = dict.fromkeys(training for want in wants for training in want.trainings)
    return [_cell(preset, training) for training in trainings]


def _cell(preset: Preset, want: Want) -> Cell:
    changes = _settings(preset, want.method) | dict(want.settings)
    inner = {key.removeprefix("adapter."): changes.pop(key) for key in list(changes) if key.startswith("adapter.")}
    config = replace(preset.config, seed=want.seed, **changes)
    config = replace(
        config, data=tuple(preset.data[name] for name in want.mixture), adapter=replace(config.adapter, **inner)
    )
    # Variants are compared on what they were trained on; the plain cells serve Table 2 too.
    tested = want.mixture if want.variant else (*want.mixture, *preset.unseen(want.mixture))
    task = {
        "kind": "gems", "name": want.name, "config": as_values(config),
        "test": {name: preset.data[name] for name in tested}, "episodes": preset.episodes, "seed": TEST_SEED,
    }  # fmt: skip
    return Cell(want.name, task)
