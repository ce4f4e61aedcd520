"""The page of `reproduce gems`: what is done of the paper's tables, beside what the paper says."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gems_edge.meta.settings.run import TrainConfig
from gems_edge.report.page import Block, Note, Section, Table
from gems_edge.reproduce import page as pages
from gems_edge.reproduce.gems.bar import UNTRAINED, at_shots, bar_row
from gems_edge.reproduce.gems.choices import choice_sections
from gems_edge.reproduce.gems.claims import RULES, claims_of
from gems_edge.reproduce.gems.paper import ADVICE, READINGS, training_on
from gems_edge.reproduce.gems.plan import TIMES, GemsRow, GemsRows, trainings, with_multi_maml
from gems_edge.reproduce.gems.protocol import MULTI, PAPER, GemsPreset
from gems_edge.reproduce.gems.questions import answers
from gems_edge.reproduce.gems.tables import ABLATIONS, accuracy_section
from gems_edge.reproduce.job import Document
from gems_edge.reproduce.protocol import Setup

SOURCE = "Pimpalkhute et al., GEMS: Generating Efficient Meta-Subnets, WACV 2023."
PAGE = pages.PaperPage(SOURCE, RULES, "of", notes=READINGS, advice=ADVICE)
QUESTIONS_PAGE = replace(PAGE, title="Questions to a pretrained network")

ABOUT = (
    "The paper's settings stand in a supplement that is not available; the preset paper's are our decision where "
    "the paper is silent. The adapter's architecture is our reading too (notes on the algorithms)."
)

GemsStudy = pages.Study[GemsPreset, Setup]


def reproduce(study: GemsStudy) -> pages.Reproduction:
    """Everything that is known, as sections of a page and as a document."""
    study = replace(study, results=with_multi_maml(study.preset, study.trials, study.results))
    rows = study.all_rows
    tables = [section for part in study.parts for section in _table_sections(study, part)]
    preset, pretrained = study.preset, study.preset.pretrained
    claims = answers(preset, rows) if pretrained else claims_of(preset, rows)
    made = pages.reproduction(
        study, QUESTIONS_PAGE if pretrained else PAGE, claims, shown=[*tables, *choice_sections(rows)], printed=tables,
        how=_how(study), row_document=partial(_row_document, preset),
    )  # fmt: skip
    more: dict[str, Any] = {"mode": preset.config.normalization}
    if pretrained:
        more[UNTRAINED] = [_row_document(preset, bar_row(rows, setup)) for setup in rows.setups]
    return replace(made, document=made.document | more)


def _table_sections(study: GemsStudy, part: str) -> list[Section]:
    number, rows, preset = int(part.removeprefix("table ")), study.rows(part), study.preset
    if number in ABLATIONS:
        return [ABLATIONS[number](rows, preset)]
    return [
        accuracy_section(number, preset, rows, setup, shots) for setup in rows.setups for shots in preset.shots
    ]  # fmt: skip


def _how(study: GemsStudy) -> list[Block]:
    preset = study.preset
    plain = [t for trial in study.trials for t in trainings(preset, trial) if not t.variant]
    ours = _settings(preset, study.resolved(plain, preset.config))
    trained = {name for sets in preset.mixtures for name in sets}
    data = tuple(
        (name, spec, "trained and tested" if name in trained else "only tested") for name, spec in preset.data.items()
    )
    about = () if preset.pretrained else (Note(ABOUT),)
    theirs = {} if preset.pretrained else _settings(PAPER, PAPER.config)
    return [
        pages.settings_table(ours, theirs, "preset paper"),
        Table(("distribution", "images", "use"), data), pages.conditions_table(preset), *about,
    ]  # fmt: skip


def _settings(preset: GemsPreset, config: TrainConfig) -> dict[str, str]:
    others = [
        f"{method}: {', '.join(f'{k} {v}' for k, v in values.items())}" for method, values in preset.methods.items()
    ]
    return {
        "mixtures": "; ".join(" + ".join(sets) for sets in preset.mixtures),
        **pages.recipe(replace(config, steps=preset.config.steps)),
        **({"iterations of Multi-MAML": "as many of each model"} if MULTI in preset.rows else {}),
        "methods that differ": "; ".join(others) or "none",
    }


def _row_document(preset: GemsPreset, row: GemsRow) -> Mapping[str, Any]:
    times = row.costs_document(f"train.{name}" for name in TIMES)
    document = {
        "mixture": list(row.setup.sets),
        **_accuracy_document(row),
        "time": dict(zip(TIMES, times.values())),
        "paper": None if row.variant or preset.pretrained else _paper(row),
    }
    if len(preset.shots) > 1:
        tested = {shots: at_shots(GemsRows([row]), shots)[0] for shots in preset.shots}
        document["by_shots"] = {str(shots): _accuracy_document(each) for shots, each in tested.items()}
    first: Document = next(iter(row.done.values()), {})
    chosen = {str(seed): done["choices"] for seed, done in row.done.items() if done.get("choices")}
    return document | ({"layers": first["layers"], "choices": chosen} if chosen else {})


def _accuracy_document(row: GemsRow) -> dict[str, Any]:
    first: Document = next(iter(row.done.values()), {"accuracy": {}})
    unseen = tuple(name for name in first["accuracy"] if name not in row.setup.sets)
    return {
        "accuracy": {name: row.accuracies_document((name,)) for name in first["accuracy"]},
        "mean": {"seen": row.accuracies_document(), "unseen": row.accuracies_document(unseen) if unseen else {}},
    }


def _paper(row: GemsRow) -> dict[str, Any] | None:
    """What the paper prints of its training on as many distributions."""
    trained = training_on(row.setup.sets)
    if trained is None or row.method not in trained.time:
        return None
    return {
        "mixture": list(trained.mixture), "time": trained.time[row.method],
        "seen": {name: printed.accuracy for name, printed in trained.seen[row.method].items()},
        "unseen": {name: printed.accuracy for name, printed in trained.unseen[row.method].items()},
    }  # fmt: skip
