"""What the pages of all reproductions share: what was done, the paper's claims with their verdicts, the machine."""

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gems_edge.report.page import Block, KeyFigure, KeyFigures, Note, Section, Table
from gems_edge.reproduce.grid import Cell, Document
from gems_edge.reproduce.verdicts import FAILS, HOLDS, MISSING, NONE, OPEN, Claim


@dataclass(frozen=True)
class Reproduction:
    sections: tuple[Section, ...]
    printed: tuple[Section, ...]  # those whose tables a terminal shows
    document: dict[str, Any]


def summary_section(
    preset, parts: Sequence[str], cells: Sequence[Cell], results: Mapping[str, Document], claims: Sequence[Claim]
) -> Section:
    """`preset` has name, seeds, episodes and about."""
    counts = Counter(claim.verdict for claim in claims)
    rest = ", ".join(f"{counts[word]} {word}" for word in (OPEN, MISSING) if counts[word])
    figures = (
        KeyFigure("preset", preset.name, "what was asked for: " + ", ".join(parts)),
        KeyFigure("cells done", f"{len(results)} of {len(cells)}", "trainings, each tested on new episodes"),
        KeyFigure("trainings", str(preset.seeds), "of each entry, from other seeds"),
        KeyFigure("test episodes", str(preset.episodes), "a training, the same for all"),
        KeyFigure("claims of the paper", f"{counts[HOLDS]} hold, {counts[FAILS]} do not", rest),
    )
    blocks: list[Block] = [KeyFigures(figures), Note(preset.about)]
    if len(results) < len(cells):
        text = "Not everything is done: what is missing is shown as “–”. The same command goes on with it."
        blocks.append(Note(text))
    return Section("What was done", tuple(blocks))


def claims_sections(claims: Sequence[Claim], at: str) -> list[Section]:
    """A section per setup, a line per figure; `at` says what tells a claim's figures apart."""
    sections = []
    for setup in dict.fromkeys(claim.setup for claim in claims):
        rows = []
        for claim in claims:
            if claim.setup != setup:
                continue
            figures = [(f.label, f.text, f.verdict) for f in claim.figures] or [("", NONE, "")]
            rows.append((claim.text, *figures[0], claim.explained))
            rows += [("", *figure, "") for figure in figures[1:]]
        header = ("claim", at, "here", "there", "verdict")
        caption = "Accuracies in the mode that was trained in. When a claim holds: see the end of this page."
        sections.append(Section(f"The paper's claims: {setup}", (Table(header, tuple(rows), caption),)))
    return sections


def brief_claims(claims: Sequence[Claim]) -> list[Section]:
    """One table, a line per claim; nothing without claims."""
    rows = tuple((claim.setup, claim.text, claim.explained) for claim in claims)
    return [Section("The paper's claims", (Table(("setup", "claim", "here"), rows),))] if rows else []


def quotes_section(claims: Sequence[Claim], source: str, rules: Sequence[str]) -> Section:
    """The paper's words, what was made of them, and how a verdict comes about."""
    rows = []
    for quote in dict.fromkeys(claim.quote for claim in claims):
        checked = dict.fromkeys(claim.text for claim in claims if claim.quote == quote)
        rows.append((quote.words, quote.where, "; ".join(checked)))
    table = Table(("the paper's words", "where", "checked as"), tuple(rows), f"{source} “[…]” marks what is left out.")
    return Section("What the paper claims, and when it holds here", (table, *map(Note, rules)))


def machine_rows() -> tuple[tuple[str, str], ...]:
    return (
        ("CPU cores of the machine that wrote this page", str(len(os.sched_getaffinity(0)))),
        ("processor", f"{_processor()}, {platform.machine()}"),
        ("torch", _version("torch")),
        ("Python", platform.python_version()),
    )


def cells_document(cells: Sequence[Cell], results: Mapping[str, Document]) -> dict[str, Any]:
    missing = [cell.name for cell in cells if cell.name not in results]
    return {"planned": len(cells), "done": len(results), "missing": missing}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
