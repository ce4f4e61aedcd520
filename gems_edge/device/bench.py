"""The measured part of `gems-edge bench` as one document."""

from collections.abc import Callable
from typing import Any

from gems_edge.control_groups import available_cores
from gems_edge.device.bundle import Bundle, bundle_bytes
from gems_edge.device.core_clock import core_clocks_mhz
from gems_edge.device.host import conditions, host_facts, spoiled
from gems_edge.device.measure import (
    Sample,
    adapt_call,
    cold_starts,
    fresh_memory,
    predict_call,
    summarise,
    time_calls,
    times_faster,
    trunk_call,
)

_MEDIAN = {"p50": 0.5}


def measure_bundle(bundle: Bundle, threads: int | None, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Time, memory, cold start and sizes of `bundle` on this machine, every number tagged with interval and source.

    `on_stage` is called with what is measured next. Raises UserError for a bundle that does not run, MachineError if a
    measured process dies.
    """
    before = host_facts()
    machine = before.get("board") or before.get("cpu") or before["machine"]
    here = f"{machine}, onnxruntime {before['onnxruntime']}, {threads or 'default'} threads"
    times = _times(bundle, threads, here, on_stage)
    clock = _clock()
    after = conditions()
    on_stage("memory of fresh processes")
    memory = {
        what: _memory(fresh_memory(bundle.path, what, count, threads), count, what)
        for what, count in (("predict", 1), ("adapt", bundle.ways * bundle.shots))
    }
    on_stage("cold starts")
    cold = summarise(cold_starts(bundle, threads), _MEDIAN)
    return {
        "bundle": str(bundle.path),
        "host": before,
        "conditions": {
            "before": {name: before[name] for name in after if name in before},
            "after": after,
            "clock": clock,
            "spoiled": spoiled(before, after, None if clock is None else clock["core"]),
        },
        "threads": threads or available_cores(),
        **times,
        "memory": memory,
        "cold_start": cold.as_dict("s", f"{cold.runs} starts of gems-edge predict with warm file caches; {here}"),
        "bytes": _sizes(bundle),
        "macs": _macs(bundle),
    }


def _times(bundle: Bundle, threads: int | None, here: str, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Predictions, the trunk where there is one, and gradient steps. `here`: the machine, as sources name it."""
    on_stage("predictions")
    times = {"predict": _one_image(predict_call(bundle, threads), here)}
    if bundle.quantisation is not None:
        times["int8"] = _int8(bundle, threads, here)
    if bundle.trunk is not None:
        on_stage("the trunk")
        times["trunk"] = _one_image(trunk_call(bundle, threads), here)
    on_stage("gradient steps")
    adapt = summarise(time_calls(adapt_call(bundle, threads), warm_up=3, runs=100, seconds=10.0))
    images, classes = bundle.ways * bundle.shots, bundle.ways
    return times | {"adapt": {"images": images, "classes": classes, **adapt.as_dict("ms", _timed(adapt, here))}}


def _one_image(call: Callable[[], Any], here: str) -> dict[str, Any]:
    """What a call on one image takes."""
    sample = summarise(time_calls(call))
    return {"images": 1, **sample.as_dict("ms", _timed(sample, here))}


def _timed(sample: Sample, here: str) -> str:
    return f"{sample.runs} calls of the graph after a warm-up, decoding not counted; {here}"


def _int8(bundle: Bundle, threads: int | None, here: str) -> dict[str, Any]:
    """Time of the quantised graph, and how many times as fast it is as the float32 one, the two alternating."""
    fp32, int8 = (predict_call(bundle, threads, precision) for precision in ("fp32", "int8"))
    times = {"predict": _one_image(int8, here)}
    ratio = summarise(times_faster(fp32, int8), _MEDIAN)
    if bundle.trunk is not None:
        times["trunk"] = _one_image(trunk_call(bundle, threads, "int8"), here)
    source = f"{ratio.runs} rounds of fp32 and int8 in turn; {here}"
    return times | {"times_faster": ratio.as_dict("×", source, digits=2)}


def _sizes(bundle: Bundle) -> dict[str, Any]:
    sizes = bundle_bytes(bundle)
    return {"files": sizes, "total": sum(sizes.values()), "unit": "bytes", "tag": "measured", "source": "files"}


def _macs(bundle: Bundle) -> dict[str, Any]:
    cost = bundle.manifest["cost"]
    macs = {graph: cost[graph]["macs"] for graph in ("predict", "trunk", "adapt_step") if graph in cost}
    interval = {graph: [count, count] for graph, count in macs.items()}
    source = "counted from the graphs' shapes at export, exact"
    return macs | {"unit": "MAC", "interval": interval, "tag": "predicted", "source": source}


def _clock() -> dict[str, Any] | None:
    """The clock right after the timed runs, while the board is as hot as they made it."""
    if measured := core_clocks_mhz():
        median = summarise(measured, _MEDIAN)
        clock = Sample({"core": median.quantiles["p50"]}, {"core": median.intervals["p50"]}, median.runs)
        return clock.as_dict("MHz", "chains of dependent additions on one core right after the timed runs", digits=0)
    reported = conditions()
    source = next((name for name in ("firmware_clock_mhz", "clock_mhz") if name in reported), None)
    if source is None:
        return None
    value = reported[source]
    return Sample({"core": value}, {"core": (value, value)}, 1).as_dict("MHz", f"{source}, right after the timed runs")


def _memory(repeats: list[dict[str, float]], images: int, what: str) -> dict[str, Any]:
    parts = {
        name: summarise([repeat[f"{name}_mb"] for repeat in repeats], _MEDIAN) for name in ("peak", "baseline", "files")
    }
    values = Sample(
        {name: part.quantiles["p50"] for name, part in parts.items()},
        {name: part.intervals["p50"] for name, part in parts.items()},
        len(repeats),
    )
    source = (
        f"VmHWM of {len(repeats)} fresh processes that ran {what}; baseline: after their imports; "
        "files: pages of libraries, which the system can drop; interval: least and most"
    )
    return {"images": images, **values.as_dict("MB", source, digits=1)}
