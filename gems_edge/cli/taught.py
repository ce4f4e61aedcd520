"""What `adapt` and `teach` say of an adaptation and of the state that holds it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gems_edge.cli.common import Document, say

if TYPE_CHECKING:
    from gems_edge.device import Adaptation, Explanation, Learner
    from gems_edge.device.state import State


def say_step(step: int, loss: float, seconds: float, total: int | None = None) -> None:
    of = "" if total is None else f"/{total}"
    say(f"step {step}{of}  loss {loss:.4f}  {1e3 * seconds:.1f} ms")


def state_document(saved: "State", path: str) -> Document:
    """What a state holds."""
    from gems_edge.device.state import state_bytes

    photos = saved.versions[-1].album.photos if saved.versions else ()
    return {
        "state": str(Path(path)),
        "generation": saved.generation,
        "classes": list(saved.classes),
        "images": saved.images,
        "photos": [{"number": each.number, "class": each.label, "file": each.source} for each in photos],
        "steps": saved.steps,
        "state_bytes": state_bytes(path),
    }


def adaptation_report(
    learner: "Learner", adaptation: "Adaptation", explanation: "Explanation", saved: "State", path: str
) -> tuple[Document, list[str]]:
    """What was learned, whether that is enough, what it took and what it was predicted to take: for --json and for
    people."""
    from gems_edge.predict.memory import predict_memory
    from gems_edge.process_memory import peak_rss_mb

    times = _times([1e3 * seconds for seconds in adaptation.seconds])
    trunk_ms = None if adaptation.trunk_seconds is None else round(1e3 * adaptation.trunk_seconds, 3)
    measured = peak_rss_mb()
    predicted = predict_memory(learner.bundle.manifest["cost"], adaptation.images, "adapt")
    document = (
        state_document(saved, path)
        | explanation.to_json()
        | {
            "loss": list(adaptation.losses),
            "ms_per_step": times or None,
            "trunk_ms": trunk_ms,
            "total_ms": round(1e3 * adaptation.total_seconds, 3),
            "peak_rss_mb": None if measured is None else round(measured, 1),
            "predicted_peak_mb": round(predicted.value, 1),
        }
    )
    memory = f"{predicted.value_text('.0f')} predicted ({predicted.interval_text('.0f')})"
    if measured is not None:
        memory = f"{measured:.0f} MB measured, {memory}"
    trunk = "" if trunk_ms is None else f"{trunk_ms:.1f} ms for the layers that do not learn, "
    step = f"{times['p50']:.1f} ms per step" if times else "class means, no step"
    return document, [
        f"{path}: generation {saved.generation}, {document['state_bytes']} bytes",
        f"{trunk}{step}; peak memory {memory}",
        *explanation.lines(),
    ]


def _times(milliseconds: Sequence[float]) -> dict[str, float]:
    """Quantiles of the steps' times; none of no steps."""
    from gems_edge.device.measure import summarise

    if not milliseconds:
        return {}
    quantiles = summarise(list(milliseconds), {"p50": 0.5, "p90": 0.9}).quantiles
    return {name: round(value, 3) for name, value in quantiles.items()}
