"""What of a run is whole, what is not, and what can be saved."""

from collections.abc import Iterator
from pathlib import Path

from gems_edge.device.finding import Finding, Part, reason_of
from gems_edge.errors import UserError
from gems_edge.meta.metrics import read_metrics
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import read_config
from gems_edge.sealed import read_sealed

_CONTENTS = "what they say"


def inspect_run(path: Path) -> Finding:
    """The run at `path`, file by file; where all are whole, whether its weights fit its network. Of a multi-maml run
    also the run of each distribution."""
    parts = tuple(_parts(path))
    damaged = {part.name for part in parts if part.problem}
    if not damaged:
        parts += (_contents(path),)
        damaged = {part.name for part in parts if part.problem}
    return Finding("run", path, parts, _rescue(path, damaged))


def _parts(path: Path) -> Iterator[Part]:
    run = Run(path)
    yield _config(run.config_path)
    if run.metrics_path.exists():
        yield _metrics(run.metrics_path)
    files = (run.weights_path, run.checkpoint_path, run.ticket_path, run.initial_path, run.trained_path)
    for file in (*files, *sorted(run.kept_path.glob("*.safetensors"))):
        if file.exists() or file.is_symlink():
            yield _sealed(file, str(file.relative_to(path)))
    for part in sorted((path / "distributions").glob("*/")):
        name = str(part.relative_to(path))
        if part.name not in _distributions(run):
            yield Part(name, about="no run of this one's; nothing reads it")
            continue
        for found in _parts(part):
            yield Part(f"{name}/{found.name}", found.problem, found.about)
    for file in (*path.glob(".*.tmp"), *run.checkpoint_path.parent.glob(".*.tmp"), *run.kept_path.glob(".*.tmp")):
        yield Part(
            str(file.relative_to(path)), about="left over of a write that was cut off; train --resume removes it"
        )


def _distributions(run: Run) -> set[str]:
    """Names of the runs that it consists of; none where its config cannot be read."""
    try:
        return set(run.distributions())
    except (UserError, OSError):
        return set()


def _config(file: Path) -> Part:
    try:
        config = read_config(file)
    except (UserError, OSError) as error:
        return Part(file.name, reason_of(error))
    return Part(file.name, about=f"{config.method}, {config.backbone}, {config.iterations} iterations")


def _metrics(file: Path) -> Part:
    try:
        lines = read_metrics(file)
    except (UserError, OSError) as error:
        return Part(file.name, reason_of(error))
    return Part(file.name, about=f"{len(lines)} lines")


def _sealed(file: Path, name: str) -> Part:
    try:
        content, metadata = read_sealed(file)
    except (UserError, OSError) as error:
        return Part(name, reason_of(error))
    iteration = f", iteration {metadata['iteration']}" if "iteration" in metadata else ""
    unsure = "" if "sha256" in metadata else "; no checksum, so damage may go unnoticed"
    return Part(name, about=f"{len(content)} bytes{iteration}{unsure}")


def _contents(path: Path) -> Part:
    """Whether checkpoint, ticket and weights are of this network."""
    try:
        run = Run(path)
        checkpoint = run.checkpoint()
        for each in run.distributions().values() or (run,):
            if each.weights_path.exists():
                each.model()
    except (UserError, OSError) as error:
        return Part(_CONTENTS, reason_of(error))
    return Part(_CONTENTS, about=f"training can be resumed from iteration {checkpoint.iteration}" if checkpoint else "")


def _rescue(path: Path, damaged: set[str]) -> str:
    """What can still be done with the run, for each file that is damaged."""
    if not damaged:
        return ""
    run = Run(path)
    if "config.toml" in damaged:
        return "without config.toml nothing of the run can be used: bring back a copy of it"
    said = []
    if "weights.safetensors" in damaged:
        whole = run.checkpoint_path.exists() and "last/checkpoint.safetensors" not in damaged
        said.append(
            "the best weights are lost; train --resume goes on from the checkpoint"
            if whole
            else "the best weights and the checkpoint are lost: train anew"
        )
    elif "last/checkpoint.safetensors" in damaged:
        working = "evaluate and export still work; " if run.weights_path.exists() else ""
        said.append(f"{working}training cannot be resumed")
    if "metrics.jsonl" in damaged:
        said.append("delete metrics.jsonl: a run goes on without it")
    others = sorted(damaged - {"weights.safetensors", "last/checkpoint.safetensors", "metrics.jsonl", _CONTENTS})
    if others:
        said.append(f"bring back copies of {', '.join(others)}")
    return "; ".join(said) or "bring back a copy of the run"
