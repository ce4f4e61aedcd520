"""The document of `tools/bench_training.py` as tables, with the targets that it meets (✓) and misses (✗)."""

from collections.abc import Iterator
from typing import Any

# On a CPU, times the fastest peer: method → image size → at least. On a GPU, times learn2learn with Conv-4 at 84×84.
FASTER = {"maml": {28: 1.25, 84: 1.5}, "maml-first": {28: 1.5, 84: 1.5}, "anil": {28: 5.0, 84: 5.0}}
FASTER_THAN_LEARN2LEARN = 5.0
DATA_SHARE, EPISODES, EPISODE_IMAGES = 0.03, 20_000, 80
FULL_RUN, FULL_RUN_MINUTES = 80_000, 30
OURS = "gems-edge"


def tables(document: dict[str, Any]) -> str:
    """Markdown."""
    return "\n".join(
        [_about(document), "", *_speed(document), *_memory(document), *_roofline(document), *_data(document)]
    )


def _about(document: dict[str, Any]) -> str:
    settings, host = document["settings"], document["host"]
    episode = (
        f"{settings['ways']} ways, {settings['shots']} shots, {settings['queries']} queries, {settings['steps']} steps"
    )
    return (
        f"{host.get('gpu') or host.get('cpu') or host['machine']}, torch {host['torch']}, {settings['threads']} threads"
        f"{', TF32' if settings['tf32'] else ''}; {episode}, meta-batches of {settings['meta_batch']}. Medians over "
        "rounds of alternating blocks, a process a contestant; in brackets the 10th and 90th percentile of the rounds' "
        "ratios. "
        "Difference: the largest of a tensor's meta-gradient in float64 from plain autograd's, as a share of it, on "
        "narrower networks and a smaller meta-batch (check in the JSON)."
    )


def _speed(document: dict[str, Any]) -> Iterator[str]:
    peers = document["settings"]["peers"]
    on_gpu = document["settings"]["compute"] != "cpu"
    full = [f"minutes of {FULL_RUN} iterations"] if on_gpu else []
    columns = ["row", OURS, *peers, "fastest peer", "times as fast", "processor seconds", "difference", *full]
    yield from _header("Seconds per meta-iteration", columns)
    for name, row in document["rows"].items():
        seconds, fastest = row["seconds"], row["fastest_peer"]
        processor = row["processor_seconds"]
        minutes = seconds[OURS] * FULL_RUN / 60
        peer, least = target(row, on_gpu) or (fastest, None)
        faster = _ratio(row["times_faster_than"][fastest], least if peer == fastest else None)
        if peer != fastest and peer in seconds:
            faster += f"; {peer}: {_ratio(row['times_faster_than'][peer], least)}"
        cells = [
            name,
            *(f"{seconds[subject]:.4g}" if subject in seconds else _why(row, subject) for subject in (OURS, *peers)),
            fastest,
            faster,
            f"{processor[OURS]:.4g} ({fastest}: {processor[fastest]:.4g})",
            f"{max(row['check']['differences'].values()):.0e}",
        ]
        if on_gpu:
            cells.append(f"{minutes:.1f} {_mark(minutes < FULL_RUN_MINUTES)}")
        yield _line(cells)
    yield ""


def target(row: dict[str, Any], on_gpu: bool) -> tuple[str, float] | None:
    """The peer to be ahead of in a row, and how many times."""
    if not on_gpu:
        least = FASTER.get(row["method"], {}).get(row["setting"]["image_size"])
        return least and (row["fastest_peer"], least)
    setting = row["setting"]
    applies = (setting["backbone"], setting["image_size"], row["method"]) == ("conv4", 84, "maml")
    return ("learn2learn", FASTER_THAN_LEARN2LEARN) if applies else None


def _why(row: dict[str, Any], name: str) -> str:
    return row["left_out"].get(name, "")


def _memory(document: dict[str, Any]) -> Iterator[str]:
    names = [OURS, *document["settings"]["peers"]]
    title = "Peak MB of the process, in brackets above its imports (target at 28×28, maml: no more than learn2learn's)"
    if document["settings"]["compute"] != "cpu":
        title += "; then of torch's allocator on the GPU"
    yield from _header(title, ["row", *names])
    for name, row in document["rows"].items():
        memory, setting = row["memory"], row["setting"]
        compared = row["method"] == "maml" and setting["image_size"] == 28 and "learn2learn" in memory
        cells = []
        for one in names:
            if one not in memory:
                cells.append(_why(row, one))
                continue
            found = {"whole": memory[one]["process_mb"], "above": memory[one]["process_mb"] - memory[one]["base_mb"]}
            marks = dict.fromkeys(found, "")
            if one == OURS and compared:
                other = memory["learn2learn"]
                marks["whole"] = " " + _mark(found["whole"] <= other["process_mb"])
                marks["above"] = " " + _mark(found["above"] <= other["process_mb"] - other["base_mb"])
            gpu = f"; {memory[one]['gpu_mb']:.0f}" if "gpu_mb" in memory[one] else ""
            cells.append(f"{found['whole']:.0f}{marks['whole']} ({found['above']:.0f}{marks['above']}){gpu}")
        yield _line([name, *cells])
    yield ""


def _roofline(document: dict[str, Any]) -> Iterator[str]:
    title = (
        "Roofline: seconds of a meta-iteration's FLOPs and (unfused) bytes at the measured peaks, as shares of its "
        "time; bytes that a CPU's caches serve can take that above 100 %"
    )
    columns = ["row", "GFLOP", "GB", "peak GFLOP/s", "peak GB/s", "FLOPs' share", "bytes' share", "GPU busy"]
    yield from _header(title, columns)
    for name, row in document["rows"].items():
        found = row["roofline"]
        busy = found.get("gpu_percent")
        yield _line([
            name, f"{found['flops'] / 1e9:.3g}", f"{found['bytes'] / 1e9:.3g}",
            f"{found['flops_per_second'] / 1e9:.0f}", f"{found['bytes_per_second'] / 1e9:.1f}",
            f"{found['flops_share']:.1%}", f"{found['bytes_share']:.1%}",
            "" if busy is None else f"{busy:.0f} %",
        ])  # fmt: skip
    yield ""


def _data(document: dict[str, Any]) -> Iterator[str]:
    on_gpu = document["settings"]["compute"] != "cpu"
    yield from _header(
        f"Drawing and cutting episodes of glyphs (targets: on a CPU ≤ {DATA_SHARE:.0%} of an iteration; on a GPU at "
        f"84×84 ≥ {EPISODES} episodes of {EPISODE_IMAGES} images a second)",
        ["row", "ms per meta-iteration", "share", "episodes/s", "images each"],
    )
    for name, row in document["rows"].items():
        found = row["data"]
        share, rate = f"{found['share']:.2%}", f"{found['episodes_per_second']:.0f}"
        if not on_gpu:
            share += f" {_mark(found['share'] <= DATA_SHARE)}"
        elif row["setting"]["image_size"] == 84 and found["images_per_episode"] == EPISODE_IMAGES:
            rate += f" {_mark(found['episodes_per_second'] >= EPISODES)}"
        yield _line([name, f"{1e3 * found['seconds']:.3g}", share, rate, str(found["images_per_episode"])])
    yield ""


def _header(title: str, names: list[str]) -> list[str]:
    return [f"**{title}**", "", _line(names), _line(["---"] * len(names))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(found: dict[str, Any], least: float | None = None) -> str:
    low, high = found["p10_p90"]
    mark = "" if least is None else f" {_mark(found['median'] >= least)}"
    return f"{found['median']:.2f}{mark} ({low:.2f} … {high:.2f})"


def _mark(met: bool) -> str:
    return "✓" if met else "✗"
