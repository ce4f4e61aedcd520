"""The peers of `bench_training.py`, each written as its own examples write it, and the environment for them.

All train the same network, the plain torch module of the registry, so that one state dict fits all. A peer is a
function (module, Setting) → Gradient; calling the Gradient with an episode adds that task's share of the
meta-gradient to the module's `.grad`.
"""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gems_edge.models.backbones.registry import make_backbone

# The newest releases that exist. gym, cloudpickle and the like are only there because `import learn2learn` asks for
# them.
PACKAGES = (
    "higher==0.2.1", "torchopt==0.7.3", "optree", "graphviz", "cython", "setuptools<81", "wheel",
    "gym==0.26.2", "gym_notices", "cloudpickle", "tqdm", "requests", "urllib3", "idna", "certifi", "charset_normalizer",
)  # fmt: skip
LEARN2LEARN = "learn2learn==0.2.0"


@dataclass(frozen=True)
class Setting:
    """One row of the benchmark. Seconds are those of `meta_batch` tasks and a step of Adam."""

    backbone: str
    width_multiplier: float
    image_size: int
    channels: int
    method: str  # maml, anil or boil
    first_order: bool
    ways: int
    shots: int
    queries: int
    steps: int
    meta_batch: int
    inner_lr: float


@dataclass(frozen=True)
class Task:
    support: Tensor  # [ways·shots, C, H, W]
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor


Gradient = Callable[[Task], None]


class Hardsigmoid(nn.Module):
    """torch's own cannot be differentiated twice."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


class Network(nn.Module):
    """The backbone as its author wrote it, with statistics of each batch and without dropout, and a linear head."""

    def __init__(self, setting: Setting):
        super().__init__()
        self.backbone = make_backbone(setting.backbone, setting.channels, setting.width_multiplier)
        for module in list(self.backbone.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Hardsigmoid):
                    setattr(module, name, Hardsigmoid())
        with torch.no_grad():
            images = torch.zeros(2, setting.channels, setting.image_size, setting.image_size)
            features = self.backbone(images).shape[1]
        self.head = nn.Linear(features, setting.ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def _parts(network: Network, method: str) -> tuple[nn.Module, Callable]:
    """What the inner loop moves, and a function from it to logits.

    For anil the inputs are features, computed once, as all examples do it.
    """
    if method == "boil":
        return network.backbone, lambda moved, x: network.head(moved(x))
    return (network if method == "maml" else network.head), lambda moved, x: moved(x)


def _inputs(network: Network, setting: Setting, task: Task) -> tuple[Tensor, Tensor]:
    if setting.method == "anil":
        return network.backbone(task.support), network.backbone(task.query)
    return task.support, task.query


def plain(network: Network, setting: Setting) -> Gradient:
    """torch alone: autograd.grad and a dictionary of weights."""
    part, logits = _parts(network, setting.method)
    start = dict(part.named_parameters())

    def gradient(task: Task) -> None:
        support, query = _inputs(network, setting, task)
        weights = start

        def moved(x: Tensor) -> Tensor:
            return functional_call(part, weights, (x,))

        for _ in range(setting.steps):
            loss = F.cross_entropy(logits(moved, support), task.support_labels)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=not setting.first_order)
            weights = {name: w - setting.inner_lr * g for (name, w), g in zip(weights.items(), gradients)}
        loss = F.cross_entropy(logits(moved, query), task.query_labels)
        (loss / setting.meta_batch).backward()

    return gradient


def learn2learn(network: Network, setting: Setting) -> Gradient:
    import learn2learn as l2l

    part, logits = _parts(network, setting.method)
    maml = l2l.algorithms.MAML(part, lr=setting.inner_lr, first_order=setting.first_order)

    def gradient(task: Task) -> None:
        support, query = _inputs(network, setting, task)
        learner = maml.clone()
        for _ in range(setting.steps):
            learner.adapt(F.cross_entropy(logits(learner, support), task.support_labels))
        (F.cross_entropy(logits(learner, query), task.query_labels) / setting.meta_batch).backward()

    return gradient


def higher(network: Network, setting: Setting) -> Gradient:
    import higher as library

    part, logits = _parts(network, setting.method)
    optimizer = torch.optim.SGD(part.parameters(), lr=setting.inner_lr)
    start = list(part.parameters())
    outside = [weight for weight in network.parameters() if all(weight is not one for one in start)]

    def gradient(task: Task) -> None:
        support, query = _inputs(network, setting, task)
        second = not setting.first_order
        with library.innerloop_ctx(part, optimizer, copy_initial_weights=False, track_higher_grads=second) as (
            moved,
            inner,
        ):
            for _ in range(setting.steps):
                inner.step(F.cross_entropy(logits(moved, support), task.support_labels))
            loss = F.cross_entropy(logits(moved, query), task.query_labels) / setting.meta_batch
            if second:
                loss.backward()
                return
            fast = list(moved.parameters())
            found = torch.autograd.grad(loss, [*fast, *outside], allow_unused=True)
            for weight, one in zip([*start, *outside], found):
                if one is not None:
                    weight.grad = one if weight.grad is None else weight.grad + one

    return gradient


def torchopt(network: Network, setting: Setting) -> Gradient | None:
    """MetaSGD has no first-order form: None."""
    if setting.first_order:
        return None
    import torchopt as library

    part, logits = _parts(network, setting.method)
    optimizer = library.MetaSGD(part, lr=setting.inner_lr)

    def gradient(task: Task) -> None:
        support, query = _inputs(network, setting, task)
        before = library.extract_state_dict(part, by="reference"), library.extract_state_dict(optimizer, by="reference")
        for _ in range(setting.steps):
            optimizer.step(F.cross_entropy(logits(part, support), task.support_labels))
        (F.cross_entropy(logits(part, query), task.query_labels) / setting.meta_batch).backward()
        library.recover_state_dict(part, before[0])
        library.recover_state_dict(optimizer, before[1])

    return gradient


PEERS = {"plain": plain, "learn2learn": learn2learn, "higher": higher, "torchopt": torchopt}


def environment(place: Path, say: Callable[[str], None]) -> Path:
    """The Python of an environment at `place` with all peers and this interpreter's torch, made if it is not there.

    learn2learn's release carries C that does not compile on Python 3.11 and later; it is built from its Cython sources.
    Raises CalledProcessError where a step fails.
    """
    python = place / "bin" / "python"
    if (place / "finished").exists():
        return python
    say(f"installing the peers into {place} (about two minutes, once)")
    venv.create(place, with_pip=True, clear=True)
    home = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    source = place / "src"
    Path(home, "torch_and_learn2learn.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{source / 'learn2learn-0.2.0'}\n"
    )
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    log = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    subprocess.run([*pip, "install", "--no-deps", *PACKAGES], **log)
    subprocess.run(
        [*pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", source, LEARN2LEARN],
        **log,
    )
    subprocess.run(["tar", "xf", "learn2learn-0.2.0.tar.gz"], cwd=source, **log)
    subprocess.run([python, "setup.py", "build_ext", "--inplace"], cwd=source / "learn2learn-0.2.0", **log)
    subprocess.run([python, "-c", "import learn2learn, higher, torchopt"], cwd=place, **log)
    (place / "finished").touch()
    return python


if __name__ == "__main__":
    print(environment(Path(sys.argv[1]), print))
