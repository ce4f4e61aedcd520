"""What the report says of foreign objects: how many are unknown, at what cost in known ones, and the ROC."""

from collections.abc import Mapping, Sequence
from typing import Any

from gems_edge.report import plots
from gems_edge.report.page import Block, Note, Picture, Section, Table

_SCORES = {
    "largest": "the largest logit",
    "energy": "the logarithm of the sum of all classes' exponentials",
    "share": "the likeliest class's probability",
    "distance": "the distance to the mean of the class's photos in what the head reads",
}


def foreign_section(manifest: Mapping[str, Any]) -> Section | None:
    """None of a bundle that knows nothing as unknown."""
    entry: Mapping[str, Any] = manifest.get("unknown") or {}
    tests = entry.get("test", [])
    if not tests:
        return None
    rows = tuple(_row(each) for each in tests)
    header = (
        "photos",
        "classes",
        "known kept",
        "foreign refused",
        "area",
        "sets hold the right one",
        "classes in a set",
    )
    caption = (
        f"Test episodes. The score is {_score_text(entry['score'])}. Its threshold keeps {entry['kept']:.0%} of known "
        "photos of validation episodes; sets are made to hold the right class at 90 %."
    )
    table = Table(header, rows, caption, frozenset(range(len(header))))
    blocks: list[Block] = [Picture(_rocs(tests, int(manifest["ways"]))), table]
    blocks.append(Note("Area: under the ROC of known against foreign photos; 0.5 is chance, 1 is perfect."))
    return Section(f"Unknown objects: {manifest['name']}", tuple(blocks))


def _row(each: Mapping[str, Any]) -> tuple[str, ...]:
    sets = each["coverage"]
    shares = (f"{each['kept']:.1%}", f"{each['refused']:.1%}", f"{each['area']:.3f}", f"{sets['reached']:.1%}")
    return str(each["photos"]), str(each["classes"]), *shares, f"{sets['classes']:.2f}"


def _score_text(score: Mapping[str, Any]) -> str:
    if score["kind"] != "background":
        return _SCORES[score["kind"]]
    return (
        f"the largest logit less {score['weight']:g} of the mean of the {score['nearest']} largest logits of training "
        "classes"
    )


def _rocs(tests: Sequence[Mapping[str, Any]], ways: int) -> str:
    shown = [each for each in tests if each["classes"] == ways] or list(tests)
    figure, axes = plots.subplots(1, 1, width=6.4, height=3.6)
    for index, each in enumerate(shown):
        kept, refused = zip(*each["roc"])
        label = f"{each['photos']} photos a class"
        axes.plot([100 * k for k in kept], [100 * r for r in refused], label=label, **plots.series_style(index))
    axes.set(xlabel="known photos kept, %", ylabel="foreign photos refused, %", xlim=(0, 100), ylim=(0, 100))
    plots.legend(axes, loc="lower left")
    return plots.to_svg(figure)
