"""The document of `tools/bench_adaptation.py` as tables, with the targets that it meets (✓) and misses (✗)."""

from collections.abc import Iterator
from typing import Any

STEP, STEP_COMPACT, MEMORY, PREDICT_COMPACT, COLD = 1.0, 3.5, 1 / 3, 4.0, 0.4
PREDICT_NETWORK = "conv4-84"


def tables(document: dict[str, Any]) -> str:
    """Markdown."""
    settings, host = document["settings"], document["host"]
    about = (
        f"{host.get('cpu') or host['machine']}, {settings['threads']} threads, {settings['clock']} clock, "
        f"onnxruntime {host['onnxruntime']}, torch {host['torch']}, adapt.onnx with --memory {settings['memory']}. "
        "Medians over rounds; in brackets 10th and 90th percentile of the rounds' ratios. Difference: from float64, of "
        "the median tensor's update and the worst. Plain: the backbone as it was written, autograd.grad; gems: "
        "gems_edge.meta on torch."
    )
    return "\n".join([about, "", *_steps(document), *_memory(document), *_predict(document), *_cold(document)]) + "\n"


def _steps(document: dict[str, Any]) -> Iterator[str]:
    if not document["step"]:
        return
    yield from _header(
        f"ms of a step (targets: ≥ {STEP:g}× torch eager; compact ≥ {STEP_COMPACT:g}× dense)",
        ["row", "ratio", "onnx", "plain", "gems", "compiled", "× eager", "× compiled", "× dense", "difference"],
    )
    for name, entry in document["step"].items():
        for ratio, found in entry["found"].items():
            ms, faster = found["ms"], found["times_faster_than"]
            dense = found.get("times_faster_than_dense")
            compiled = f"{ms['compiled']:.2f}" if "compiled" in ms else found.get("compile_error", "")[:30]
            yield _line([
                name, ratio, *(f"{ms[one]:.2f}" for one in ("onnx", "plain", "gems")), compiled,
                _ratio(faster["eager"], STEP), _ratio(faster.get("compiled")), _ratio(dense, STEP_COMPACT),
                " ".join(f"{max(one[k] for one in found['differences'].values()):.0e}" for k in ("median", "worst")),
            ])  # fmt: skip
    yield ""


def _memory(document: dict[str, Any]) -> Iterator[str]:
    if not document["memory"]:
        return
    yield from _header(
        f"Peak MB of a fresh process, five steps (target: ≤ {MEMORY:.3f} of torch's; in brackets after the imports)",
        ["row", "onnx", "plain torch", "share", "torch"],
    )
    for name, entry in document["memory"].items():
        found = entry["found"]
        sizes = [f"{found[f'{one}_peak_mb']:.0f} ({found[f'{one}_baseline_mb']:.0f})" for one in ("onnx", "plain")]
        yield _line([name, *sizes, f"{found['share']:.2f} {_mark(found['share'] <= MEMORY)}", found["torch"]])
    yield ""


def _predict(document: dict[str, Any]) -> Iterator[str]:
    if not document["predict"]:
        return
    yield from _header(
        f"ms of predicting one image (target at {PREDICT_NETWORK}: compact ≥ {PREDICT_COMPACT:g}× dense)",
        ["network", "threads", "ratio", "onnx", "plain torch", "× plain", "× dense"],
    )
    for name, entry in document["predict"].items():
        for threads, found in entry["found"].items():
            for ratio, faster in found["times_faster_than_plain"].items():
                dense = found["times_faster_than_dense"].get(ratio)
                target = PREDICT_COMPACT if name == PREDICT_NETWORK else None
                ms = [f"{found['ms'][f'{ratio} {one}']:.3f}" for one in ("onnx", "plain")]
                yield _line([name, threads.split()[0], ratio, *ms, _ratio(faster), _ratio(dense, target)])
    yield ""


def _cold(document: dict[str, Any]) -> Iterator[str]:
    if not document["cold"]:
        return
    yield from _header(
        f"Seconds of `gems-edge predict BUNDLE IMAGE --state STATE` (target: < {COLD:g})",
        ["network", "s", "least … most"],
    )
    for name, entry in document["cold"].items():
        found = entry["found"]
        low, high = found["least_most"]
        yield _line([name, f"{found['seconds']:.3f} {_mark(found['seconds'] < COLD)}", f"{low:.3f} … {high:.3f}"])
    yield ""


def _header(title: str, names: list[str]) -> list[str]:
    return [f"**{title}**", "", _line(names), _line(["---"] * len(names))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(found: dict[str, Any] | None, target: float | None = None) -> str:
    if not found:
        return ""
    low, high = found["p10_p90"]
    mark = "" if target is None else f" {_mark(found['median'] >= target)}"
    return f"{found['median']:.2f}{mark} ({low:.2f} … {high:.2f})"


def _mark(met: bool) -> str:
    return "✓" if met else "✗"
