"""Results that are kept where people read them: DIR/NAME.json, with its SHA-256, and the page DIR/NAME.md made of it.

The page is made of the JSON alone, so that every number on it comes out of one command from what is stored.
"""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gems_edge.errors import UserError
from gems_edge.files import read_json, write_atomic
from gems_edge.reproduce.job import SUM, checksum
from gems_edge.reproduce.verdicts import FAILS, HOLDS, MISSING, OPEN
from gems_edge.wording import percent_text

Stored = Mapping[str, Any]  # the document of results.json, with "title" and "command"


def publish(directory: Path, name: str, document: Stored) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**document, SUM: checksum(document)}, indent=1, ensure_ascii=False)
    write_atomic(directory / f"{name}.json", text + "\n")
    write_atomic(directory / f"{name}.md", page(document))


def read_published(path: Path) -> Stored:
    """The document of a NAME.json; UserError for one that is not as it was written."""
    document = read_json(path, "results")
    if not isinstance(document, dict) or SUM not in document:
        raise UserError(
            f"{path} holds no published results; make it with gems-edge reproduce … --publish {path.parent}"
        )
    stored = document.pop(SUM)
    if stored != checksum(document):
        raise UserError(
            f"{path} was edited: its SHA-256 is not the one that it was written with; restore it, or make it anew with "
            f"gems-edge reproduce … --report-only --publish {path.parent}"
        )
    return document


def write_pages(directory: Path) -> list[Path]:
    """Make the page of every NAME.json in the directory anew; UserError where there is none, before any is written."""
    documents = {path: read_published(path) for path in sorted(directory.glob("*.json"))}
    if not documents:
        raise UserError(f"{directory} holds no published results; make some with gems-edge reproduce … --publish DIR")
    for path, document in documents.items():
        write_atomic(path.with_suffix(".md"), page(document))
    return [path.with_suffix(".md") for path in documents]


# --- The page ---


def page(document: Stored) -> str:
    """Of a reproduction, or of a campaign on a GPU (tools/gpu_campaign.py), which has pieces."""
    if "pieces" in document:
        parts = [f"# {document['title']}", *_campaign(document)]
        return "\n\n".join(map(_wrapped, parts)) + "\n"
    parts = [f"# {document['title']}", *_about(document), *_advice(document), *_claims(document), *_rows(document)]
    parts += ["## When a claim holds", *document["rules"], *_needs(document), *_notes(document)]
    return "\n\n".join(map(_wrapped, parts)) + "\n"


def _wrapped(part: str) -> str:
    """Paragraphs and list entries as wide as the other pages; tables and headings as they are."""
    lines = part.splitlines()
    if part.startswith(("|", "#")):
        return part
    return "\n".join(
        textwrap.fill(
            line, 120, subsequent_indent="  " * line.startswith("- "), break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    )


def _campaign(document: Stored) -> Iterator[str]:
    pieces = document["pieces"]
    waiting = [piece["name"] for piece in pieces if piece["status"] != "done"]
    yield f"Made by `{document['command']}`, gems-edge {document['version']}, on {document['compute']}."
    yield f"Still waiting for a GPU: {', '.join(waiting)}." if waiting else "Every figure is there."
    body = [(each["name"], each["about"], each["status"], f"{each['seconds']:.0f}") for each in pieces]
    yield markdown_table(("piece", "what", "status", "seconds"), body)
    for rows in [piece["result"]["rows"] for piece in pieces if piece["name"] == "equality" and "result" in piece]:
        lines = [(row["network"], row["method"], row["precision"], f"{row['error']:.1e}") for row in rows]
        yield "## Meta-gradients against float64"
        yield markdown_table(("network", "method", "precision", "greatest error"), lines)


def _about(document: Stored) -> Iterator[str]:
    counts, cells = Counter(claim["verdict"] for claim in document["claims"]), document["cells"]
    rest = f"{counts[OPEN]} are not decided, {counts[MISSING]} not done"
    yield document["source"]
    yield f"Of {sum(counts.values())} claims {counts[HOLDS]} hold, {counts[FAILS]} do not, {rest}."
    yield (
        f"Made by `{document['command']}`, gems-edge {document['version']}: {cells['done']} of {cells['planned']} "
        f"trainings that were due are done, in {document['core_hours']:.1f} core hours, each tested on the same "
        f"{document['episodes']} episodes. This page is made of the JSON beside it by `gems-edge reproduce results`."
    )
    yield document["about"]
    if flat := document["flatness"]:
        yield (
            f"Trained to the end: in {flat['flat']} of {flat['trainings']} trainings validation rose by less than a "
            f"point over the last fifth ({100 * flat['mean']:.1f} points on average, {100 * flat['most']:.1f} at most)."
        )


def _advice(document: Stored) -> Iterator[str]:
    """What the decided claims mean for someone who has a network to train: of each the words for its verdict."""
    lines = []
    for key, words in document["advice"].items():
        for claim in document["claims"]:
            if claim["claim"] == key and (text := words.get(claim["verdict"])):
                lines.append(f"- {text} ({claim['setup']})")
    yield "## What a practitioner should take from it"
    yield "\n".join(lines) or "Nothing yet: no claim that matters in practice is decided."


def _claims(document: Stored) -> Iterator[str]:
    yield f"## {document['claims_title']}"
    for setup in dict.fromkeys(claim["setup"] for claim in document["claims"]):
        body = []
        for claim in [claim for claim in document["claims"] if claim["setup"] == setup]:
            words = f"“{claim['paper']['words']}” ({claim['paper']['where']})"
            for number, figure in enumerate(claim["figures"] or [{"at": "", "here": "–", "verdict": ""}]):
                first = (claim["text"], words, f"**{claim['explained']}**") if number == 0 else ("", "", "")
                body.append((first[0], first[1], figure["at"], figure["here"], figure["verdict"], first[2]))
        yield f"### {setup}"
        yield markdown_table(("claim", "the paper", document["at"], "here", "verdict there", "verdict"), body)


def _rows(document: Stored) -> Iterator[str]:
    body = [
        (
            row.get("setup") or " + ".join(row["mixture"]), " ".join(filter(None, (row["method"], row["variant"]))),
            f"{100 * row['ratio']:g} %" if row.get("ratio") else "", accuracy,
            f"{len(row['seeds']['done'])} of {len(row['seeds']['wanted'])}",
        )
        for row in document["rows"]
        if (accuracy := _accuracy(row))
    ]  # fmt: skip
    yield "## Accuracies"
    if not body:
        yield "No training is done yet."
        return
    yield markdown_table(("setup", "method", "removed", "%, mode of training", "seeds"), body)
    yield "±: 95 % interval over all test episodes of all trainings together; differences are above."


def _accuracy(row: Mapping[str, Any]) -> str:
    accuracies = row["mean"]["seen"] if "mean" in row else row["accuracy"]
    entry = accuracies.get(row["mode"])
    return percent_text(entry["accuracy"], entry["ci95"]) if entry else ""


def _needs(document: Stored) -> Iterator[str]:
    readings = ", ".join(map(str, document["readings"]))
    body = [
        (
            need["text"], need["setup"], need["at"], need["bound"], *(f"{100 * need['noise'][name]:.1f}" for name in
            ("seeds", "episodes")), "assumed" if need["assumed"] else "found", str(need["seeds"] or "more than 50"),
        )
        for need in document["needs"]
    ]  # fmt: skip
    yield "## How many trainings each claim needs"
    yield (
        f"Verdicts are read after {readings} seeds, with intervals of {document['level']:.1%}. Seeds needed: so many "
        f"decide a difference that lies {100 * document['margin']:g} points from its bound with a probability of 80 %."
    )  # fmt: skip
    header = ("claim", "setup", "at", "bound", "deviation of seeds", "of episodes", "known how", "seeds needed")
    yield markdown_table(header, body)


def _notes(document: Stored) -> Iterator[str]:
    yield "## Where the paper is damaged, contradicts itself, or is read wrongly"
    yield "\n".join(f"- {note}" for note in document["notes"])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
