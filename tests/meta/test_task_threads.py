"""Tasks side by side give what they give one after the other."""

import threading

import pytest
import torch
from test_meta_gradient import QUERIES, SHOTS, WAYS, WIDTHS, episode

from gems_edge.data.shots import Shots
from gems_edge.meta import task_threads
from gems_edge.meta.outer import meta_gradient
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.task_threads import TaskThreads
from gems_edge.meta.train import train
from gems_edge.models.fewshot import FewShotModel


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def config(**changes):
    return TrainConfig(**{
        "backbone": "conv4", "widths": WIDTHS["conv4"], "image_size": 22, "channels": 3, "ways": WAYS,
        "shots": Shots.given(SHOTS), "queries": QUERIES, "steps": 2, "meta_batch": 5, "head": "per-class",
        "compute": "cpu", **changes,
    })  # fmt: skip


@pytest.mark.parametrize("method", ["maml", "anil", "bmp", "mmsup"])
def test_a_meta_gradient_is_that_of_one_thread(method, two_threads):
    settings = config(method=method)
    torch.manual_seed(0)
    model = FewShotModel(settings.model_spec()).double()
    rule = rule_of(settings)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    weights |= rule.initial(weights, model.spec.shape.feature_channels)
    weights = {name: weight.double().requires_grad_() for name, weight in weights.items()}
    episodes, seen = [episode(3, 22, seed) for seed in range(5)], []
    threads = TaskThreads(model, 5)
    assert threads.side_by_side == 2
    found, union = meta_gradient(
        threads, weights, episodes, settings, rule, lambda n, task: seen.append((n, task.loss))
    )
    torch.set_num_threads(1)
    expected, same = meta_gradient(TaskThreads(model, 5), weights, episodes, settings, rule)
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4] and len({loss.item() for _, loss in seen}) == 5
    assert union.keys() == same.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-11, atol=1e-13), name


def test_a_training_ends_with_the_same_bits_again(two_threads, tmp_path):
    settings = TrainConfig(
        data=("glyphs",), widths=(8,), steps=1, queries=3, iterations=3, validation_episodes=4, compute="cpu"
    )
    for name in "ab":
        train(Run(tmp_path / name), settings)
    files = [tmp_path / name / "weights.safetensors" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_results_keep_the_order_of_items_and_errors_arrive(two_threads):
    threads, model = TaskThreads(FewShotModel(config().model_spec()), 9), []
    first = threading.Event()

    def work(own, item):
        model.append(own)
        if item == 1:
            first.wait(0.2)  # the second comes last
        if item == 6:
            raise ValueError("six")
        return item * item

    found = []
    with pytest.raises(ValueError, match="six"):
        for result in threads.map(work, range(9)):
            found.append(result)
    assert found == [0, 1, 4, 9, 16, 25]
    assert list(threads.map(lambda own, item: item, range(4))) == [0, 1, 2, 3]  # still usable
    assert len(set(map(id, model))) == 2  # a module each, around the same tensors
    assert len({id(weight) for one in model for weight in one.parameters()}) == len(list(model[0].parameters()))


@pytest.mark.parametrize("available, most_at_a_time", [(1e6, 2), (None, 2), (0.0, 1)])
def test_memory_limits_how_many_run(available, most_at_a_time, two_threads, monkeypatch):
    monkeypatch.setattr(task_threads, "available_mb", lambda: available)
    running, most, lock = 0, 0, threading.Lock()

    def work(own, item):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.05)
        with lock:
            running -= 1

    list(TaskThreads(FewShotModel(config().model_spec()), 8).map(work, range(8)))
    assert most == most_at_a_time
