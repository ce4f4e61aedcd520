"""The measured part of `gems-edge bench` as one document."""

from collections.abc import Callable
from typing import Any

from gems_edge.device.bundle import Bundle, bundle_bytes
from gems_edge.device.core_clock import core_clocks_mhz
from gems_edge.device.host import available_cores, conditions, host_facts, spoiled
from gems_edge.device.measure import (
    Sample,
    adapt_times,
    cold_starts,
    fresh_memory,
    predict_call,
    predict_times,
    summarise,
    times_faster,
)

_MEDIAN = {"p50": 0.5}


def measure_bundle(bundle: Bundle, threads: int | None, on_stage: Callable[[str], None]) -> dict[str, Any]:
    """Time, memory, cold start and sizes of `bundle` on this machine, every number tagged with interval and source.

    `on_stage` is told what is being measured. Raises UserError for a bundle that does not run, MachineError if a
    measured process dies.
    """
    host = host_facts()
    machine = host.get("board") or host.get("cpu") or host["machine"]
    here = f"{machine}, onnxruntime {host['onnxruntime']}, {threads or 'default'} threads"
    images = bundle.ways * bundle.shots
    on_stage("predictions")
    predict = summarise(predict_times(bundle, threads))
    int8 = None if bundle.quantisation is None else _int8(bundle, threads, here)
    on_stage("gradient steps")
    adapt = summarise(adapt_times(bundle, threads, warm_up=3, runs=100, seconds=10.0))
    clock = _clock()
    after = conditions()
    on_stage("memory of fresh processes")
    memory = {
        what: _memory(fresh_memory(bundle.path, what, count, threads), count, what)
        for what, count in (("predict", 1), ("adapt", images))
    }
    on_stage("cold starts")
    cold = summarise(cold_starts(bundle, threads), _MEDIAN)
    sizes = bundle_bytes(bundle)
    cost = bundle.manifest["cost"]
    macs = {"predict": cost["predict"]["macs"], "adapt_step": cost["adapt_step"]["macs"]}
    timed = "calls of the graph after a warm-up, decoding not counted"
    return {
        "bundle": str(bundle.path),
        "host": host,
        "conditions": {
            "before": {name: host[name] for name in after if name in host},
            "after": after,
            "clock": clock,
            "spoiled": spoiled(host, after, clock and clock["core"]),
        },
        "threads": threads or available_cores(),
        "predict": {"images": 1, **predict.as_dict("ms", f"{predict.runs} {timed}; {here}")},
        **({} if int8 is None else {"int8": int8}),
        "adapt": {"images": images, "classes": bundle.ways, **adapt.as_dict("ms", f"{adapt.runs} {timed}; {here}")},
        "memory": memory,
        "cold_start": cold.as_dict("s", f"{cold.runs} starts of gems-edge predict with warm file caches; {here}"),
        "bytes": {"files": sizes, "total": sum(sizes.values()), "unit": "bytes", "tag": "measured", "source": "files"},
        "macs": macs | {
            "unit": "MAC",
            "interval": {name: [value, value] for name, value in macs.items()},
            "tag": "predicted",
            "source": "counted from the graphs' shapes at export, exact",
        },
    }  # fmt: skip


def _int8(bundle: Bundle, threads: int | None, here: str) -> dict[str, Any]:
    """Time of the quantised graph, and how many times as fast it is as the float32 one, the two alternating."""
    predict = summarise(predict_times(bundle, threads, "int8"))
    ratio = summarise(times_faster(*(predict_call(bundle, threads, one) for one in ("fp32", "int8"))), _MEDIAN)
    timed = f"{predict.runs} calls of the graph after a warm-up, decoding not counted; {here}"
    return {
        "predict": {"images": 1, **predict.as_dict("ms", timed)},
        "times_faster": ratio.as_dict("×", f"{ratio.runs} rounds of fp32 and int8 in turn; {here}", digits=2),
    }


def _clock() -> dict[str, Any] | None:
    """The clock right after the timed runs, while the board is as hot as they made it."""
    if measured := core_clocks_mhz():
        clock = summarise(measured, _MEDIAN)
        clock = Sample({"core": clock.quantiles["p50"]}, {"core": clock.intervals["p50"]}, clock.runs)
        return clock.as_dict("MHz", "chains of dependent additions on one core right after the timed runs", digits=0)
    told = conditions()
    source = next((name for name in ("firmware_clock_mhz", "clock_mhz") if name in told), None)
    if source is None:
        return None
    value = told[source]
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
