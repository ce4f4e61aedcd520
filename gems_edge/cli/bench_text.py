"""What `gems-edge bench` found, in words and as a table."""

from collections.abc import Iterator

from gems_edge.cli.common import Document, table
from gems_edge.wording import learning_text

_GRAPHS = {"predict": "a prediction", "trunk": "the trunk"}
_FREE = {"memory_available_mb": "of memory", "disk_free_mb": "of disk"}

Row = tuple[str, str, str, str, str]


def bench_text(document: Document) -> str:
    """The document of `bench --json` for people."""
    header = ("where", "what", "value", "interval", "how known")
    return "\n".join([*_head(document), table(_rows(document), header), *_tail(document)])


def _here(document: Document) -> str:
    """Where it was measured."""
    return str(document["remote"]["host"]) if "remote" in document else "here"


def _head(document: Document) -> Iterator[str]:
    host = document["host"]
    machine = host.get("board") or host.get("cpu") or host["machine"]
    yield f"{document['bundle']} on {machine}, {document['threads']} threads"
    yield _conditions_line(document)
    yield from (f"spoiled: {reason}" for reason in document["conditions"]["spoiled"])
    if "remote" in document:
        yield _remote_line(document["remote"])


def _rows(document: Document) -> Iterator[Row]:
    here = _here(document)
    learning = learning_text(document["steps"])
    yield from _figure_rows(here, document, learning)
    for device, predictions in document["devices"].items():
        yield from _figure_rows(device, predictions, learning)
    yield from _section_rows(here, "cold start of predict", document["cold_start"])
    for graph, what in (_GRAPHS | {"adapt_step": f"an {learning}" if document["steps"] else learning}).items():
        if graph in document["macs"]:
            yield "any", f"MACs of {what}", f"{document['macs'][graph]:,}", "", "predicted"
    yield "any", "size of the bundle", f"{document['bytes']['total']:,} bytes", "", "measured"


def _figure_rows(where: str, figures: Document, learning: str) -> Iterator[Row]:
    """Times and memory, measured somewhere or predicted for a board."""
    if "predict" in figures:
        yield from _section_rows(where, "predict, 1 image,", figures["predict"])
    if "int8" in figures:
        for graph in ("predict", "trunk"):
            if graph in figures["int8"]:
                yield from _section_rows(where, f"{graph} in int8, 1 image,", figures["int8"][graph])
    if "trunk" in figures:
        yield from _section_rows(where, "trunk of adapt, 1 image,", figures["trunk"])
    if "adapt" in figures:
        yield from _section_rows(where, f"{learning}, {figures['adapt']['images']} images,", figures["adapt"])
    for what, section in figures["memory"].items():
        yield from _section_rows(where, f"memory of {what},", section)
        if "predicted" in section:
            yield from _section_rows(where, f"memory of {what},", section["predicted"])


def _section_rows(where: str, what: str, section: Document) -> Iterator[Row]:
    for name, (low, high) in section["interval"].items():
        value, interval = f"{section[name]:.4g} {section['unit']}", f"{low:.4g} … {high:.4g}"
        yield where, f"{what} {name}", value, interval, section["tag"]


def _tail(document: Document) -> Iterator[str]:
    """Where the numbers come from, and how predictions compare."""
    yield f"measured: {document['predict']['source']}"
    if "int8" in document:
        yield _int8_line(document["int8"]["times_faster"], _here(document))
    sources = (part["predict"]["source"] for part in document["devices"].values() if "predict" in part)
    yield from (f"predicted: {source}" for source in dict.fromkeys(sources))
    for device, figures in document.get("comparison", {}).items():
        errors = ", ".join(f"{what} {figure['error_percent']:+.0f} %" for what, figure in figures.items())
        yield f"{device}, predicted against measured: {errors}"


def _int8_line(ratio: Document, here: str) -> str:
    """Which of the two graphs is the faster."""
    low, high = ratio["interval"]["p50"]
    verdict = "faster" if low > 1 else "slower" if high < 1 else "neither faster nor slower"
    return f"int8 is {verdict} {here}: {ratio['p50']:.2f} × as fast as fp32 ({low:.2f} … {high:.2f})"


def _conditions_line(document: Document) -> str:
    """What the machine was like."""
    conditions, host = document["conditions"], document["host"]
    before, after = conditions["before"], conditions["after"]
    parts = []
    if clock := conditions["clock"]:
        highest = f" of {host['highest_clock_mhz']}" if "highest_clock_mhz" in host else ""
        parts.append(f"{clock['core']:.0f}{highest} MHz {clock['tag']}")
    if "governor" in after:
        parts.append(f"governor {after['governor']}")
    for name, form in (("temperature_c", "{:.0f} → {:.0f} °C"), ("throttled", "throttled {} → {}")):
        if name in before and name in after:
            parts.append(form.format(before[name], after[name]))
    parts += [f"{after[key]:,} MB {what} free" for key, what in _FREE.items() if key in after]
    return ", ".join([*parts, f"onnxruntime {host['onnxruntime']}, python {host['python']}"])


def _remote_line(remote: Document) -> str:
    """What adapt and predict did on the board."""
    adapt, agreement = remote["adapt"], remote["agreement"]
    same = "the same classes as here" if agreement["same_labels"] else "other classes than here"
    times = adapt["ms_per_step"]
    steps = f"in {adapt['steps']} steps of {times['p50']:.1f} ms" if times else "without steps"
    return f"adapted there {steps}; its answers name {same}, probabilities within {agreement['largest_difference']:.1e}"
