"""Rows of GEMS's tables: methods on the distributions that they are trained on together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gems_edge.reproduce.gems.plan import MULTI, GemsTrial, trainings
from gems_edge.reproduce.gems.protocol import GemsPreset
from gems_edge.reproduce.job import Document

TIMES = ("cpu_seconds", "seconds")


def with_multi_maml(
    preset: GemsPreset, trials: Iterable[GemsTrial], results: Mapping[str, Document]
) -> dict[str, Document]:
    """`results`, and those of the Multi-MAML among `trials` all of whose trainings are done."""
    joint: dict[str, Document] = dict(results)
    for trial in trials:
        names = [training.name for training in trainings(preset, trial)]
        if trial.method == MULTI and all(name in results for name in names):
            joint[trial.name] = together(trial.setup.sets, [results[name] for name in names])
    return joint


def together(sets: Sequence[str], documents: Sequence[Document]) -> dict[str, Any]:
    """Multi-MAML, from the results of MAML on each distribution of `sets`.

    A distribution that it is trained on has its own model's accuracy, another one the mean over the models; its interval is
    the mean of theirs, which is never too narrow, for the models answer the same episodes. Times are sums.
    """
    models = dict(zip(sets, documents))
    tested = [name for name in documents[0]["accuracy"] if all(name in document["accuracy"] for document in documents)]
    accuracy = {}
    for name in dict.fromkeys((*sets, *tested)):
        answers = [document["accuracy"][name] for document in ([models[name]] if name in models else documents)]
        accuracy[name] = {
            mode: {
                key: sum(answer[mode][key] for answer in answers) / len(answers)
                for key in ("accuracy", "ci95", "episodes")
            }
            for mode in answers[0]
        }
    training = {key: sum(document["training"][key] for document in documents) for key in (*TIMES, "iterations")}
    return {"accuracy": accuracy, "training": training}
