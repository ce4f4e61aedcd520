"""One contestant of `bench_training.py` in a process of its own: orders as JSON lines on stdin, answers on stdout.

{"setting": …, "subject": NAME, "weights": FILE, "tasks": FILE, "device": …, "threads": N, "tf32": …} sets up. Then
{"do": "gradient", "file": FILE} writes the meta-gradient in float64; {"do": "run", "count": N} answers the seconds of
each of N meta-iterations; {"do": "memory"} the peaks in MB (after a run). Of ours alone: {"do": "demand"} FLOPs and
bytes of a meta-iteration, {"do": "data", "count": N} the seconds of drawing and cutting the episodes of each of N,
{"do": "utilisation", "seconds": S} of a GPU. {"do": "peaks"}: what the machine can do.
"""

import io
import json
import statistics
import sys
import time
from contextlib import redirect_stderr
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from process_peak import peak_mb
from safetensors.torch import load_file, save_file
from torch import nn
from training_peers import PEERS, Network, Setting, Task
from training_roofline import demand, peaks, seconds_of, utilisation

OURS = "gems-edge"


class Peer:
    """A plain module, a peer's gradient, Adam: one task after the other, as all the libraries' examples do it."""

    def __init__(self, setting: Setting, name: str, weights: dict, tasks: list[Task], device: str):
        network = Network(setting).to(device, next(iter(weights.values())).dtype)
        network.load_state_dict(weights)
        self.network, self.tasks = network, tasks
        self.gradient = PEERS[name](network, setting)

    @cached_property
    def optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def meta_gradient(self) -> dict:
        self.network.zero_grad()
        for task in self.tasks:
            self.gradient(task)
        return {name: weight.grad for name, weight in self.network.named_parameters()}

    def iterate(self) -> None:
        self.meta_gradient()
        self.optimizer.step()


def train_config(setting: Setting):
    """The run that a user would start for this row."""
    from gems_edge.data.shots import Shots
    from gems_edge.meta.settings.run import TrainConfig
    from gems_edge.models.spec import full_widths

    return TrainConfig(
        data=("glyphs",), image_size=setting.image_size, channels=setting.channels, backbone=setting.backbone,
        widths=full_widths((), setting.backbone, setting.width_multiplier), method=setting.method,
        first_order=setting.first_order,
        head="per-class", normalization="transductive", ways=setting.ways, shots=Shots.given(setting.shots),
        queries=setting.queries, steps=setting.steps, meta_batch=setting.meta_batch, inner_lr=setting.inner_lr,
    )  # fmt: skip


class Ours:
    """What `Trainer.step` does, but for the drawing of episodes, logging and clipping, which peers do not do either."""

    def __init__(self, setting: Setting, name: str, weights: dict, tasks: list[Task], device: str):
        from gems_edge.data.tensors import Episode, fast_layout
        from gems_edge.meta.allocator import keep_freed_memory
        from gems_edge.meta.outer import meta_gradient
        from gems_edge.meta.rules.registry import rule_of
        from gems_edge.meta.task_threads import TaskThreads
        from gems_edge.models.fewshot import FewShotModel

        if device == "cpu":
            keep_freed_memory()
        config = train_config(setting)
        model = FewShotModel(config.model_spec()).to(device)
        self.weights = {name: weights[name].to(device).requires_grad_() for name, _ in model.named_parameters()}
        self.episodes = [
            Episode(fast_layout(task.support), task.support_labels, fast_layout(task.query), task.query_labels)
            for task in tasks
        ]
        self.threads = TaskThreads(model, len(tasks))
        self.of = partial(meta_gradient, config=config, rule=rule_of(config))

    @cached_property
    def optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.weights.values(), lr=1e-3)

    def meta_gradient(self) -> dict:
        return self.of(self.threads, self.weights, self.episodes)[0]

    def iterate(self) -> None:
        for name, gradient in self.meta_gradient().items():
            self.weights[name].grad = gradient
        self.optimizer.step()


def read_tasks(file: Path, dtype: torch.dtype, device: str) -> list[Task]:
    stored = load_file(file)
    count = len(stored["support"])
    parts = {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in stored.items()}
    return [
        Task(*(parts[name][n] for name in ("support", "support_labels", "query", "query_labels"))) for n in range(count)
    ]


def data_seconds(setting: Setting, count: int, device: str) -> dict[str, Any]:
    """The median seconds of one meta-iteration's episodes, drawn from glyphs and cut as `Trainer.step` does it."""
    from gems_edge.data.mixture import mixture_sampler
    from gems_edge.data.tensors import episode_tensors
    from gems_edge.meta.start import resolve

    config, images = resolve(train_config(setting))
    sampler = mixture_sampler(images, "train", config.ways, config.shots, config.queries, config.seed)
    tensors = episode_tensors(images, device)

    def cut(iteration: int) -> None:
        for task in range(config.meta_batch):
            tensors.episode(sampler.draw(iteration, task, config.meta_batch)[1])

    found = statistics.median([seconds_of(partial(cut, iteration), device) for iteration in range(count + 1)][1:])
    return {
        "seconds": found,
        "episodes_per_second": config.meta_batch / found,
        "images_per_episode": config.ways * (setting.shots + config.queries),
    }


class Contestant:
    """Answers orders; each public method is one."""

    def __init__(self, first: dict[str, Any]):
        self.name, self.device, self.threads = first["subject"], first["device"], first["threads"]
        self.files = first["weights"], first["tasks"]
        self.setting = Setting(**first["setting"])
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = first["tf32"]
        if self.name != "plain":
            with redirect_stderr(io.StringIO()):  # gym, of learn2learn, asks to be replaced
                import_module("gems_edge.meta.train" if self.name == OURS else self.name)
        self.base_mb, self.running = None, None

    def gradient(self, file: str) -> dict:
        found = self._subject(torch.float64).meta_gradient()
        save_file({name: gradient.detach().double().cpu().contiguous() for name, gradient in found.items()}, file)
        return {}

    def run(self, count: int) -> dict:
        iterate, used = self._iterate(), time.process_time()
        seconds = [seconds_of(iterate, self.device) for _ in range(count)]
        return {"seconds": seconds, "processor_seconds": (time.process_time() - used) / count}

    def memory(self) -> dict:
        found = {"process_mb": peak_mb(), "base_mb": self.base_mb}
        return found | ({} if self.device == "cpu" else {"gpu_mb": torch.cuda.max_memory_allocated() / 1e6})

    def demand(self) -> dict:
        torch.set_num_threads(1)  # all tasks on this thread
        found = demand(self._subject(torch.float32).iterate)
        torch.set_num_threads(self.threads)
        return found

    def peaks(self) -> dict:
        return peaks(self.device)

    def data(self, count: int) -> dict:
        return data_seconds(self.setting, count, self.device)

    def utilisation(self, seconds: float) -> dict:
        return {"percent": utilisation(self._iterate(), seconds)}

    def _iterate(self):
        if self.running is None:
            unused = nn.Parameter(torch.zeros(1))
            unused.grad = torch.zeros(1)
            # It imports much of torch, which some libraries have done by now and some not.
            torch.optim.Adam([unused]).step()
            self.base_mb = peak_mb()
            self.running = self._subject(torch.float32)
        return self.running.iterate

    def _subject(self, dtype: torch.dtype) -> Peer | Ours:
        weights_file, tasks_file = self.files
        weights = {name: tensor.to(dtype) for name, tensor in load_file(weights_file).items()}
        tasks = read_tasks(tasks_file, dtype, self.device)
        return (Ours if self.name == OURS else Peer)(self.setting, self.name, weights, tasks, self.device)


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with the answers
    orders = (json.loads(line) for line in sys.stdin)
    contestant = Contestant(next(orders))
    for order in orders:
        answer = getattr(contestant, order.pop("do"))(**order)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
