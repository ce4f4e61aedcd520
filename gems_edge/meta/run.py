"""A run directory: its files, written so that a kill at any moment loses only the work since the last checkpoint."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from gems_edge.data.specs import distribution_name
from gems_edge.errors import UserError
from gems_edge.files import opened, parse_json
from gems_edge.meta.metrics import append_metrics, read_metrics
from gems_edge.meta.rules.registry import rule_of
from gems_edge.meta.settings.run import TrainConfig, read_config
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.pretrained import PRETRAINED, RANDOM, fitting_body, read_pretrained
from gems_edge.models.ticket import Ticket, check_fits, load_ticket
from gems_edge.sealed import by_name, read_sealed, write_sealed


@dataclass(frozen=True)
class Checkpoint:
    """Where training stands. Episodes are a function of the iteration, so there is no sampler state."""

    iteration: int
    best: dict[str, float]  # the best validation so far: iteration, accuracy, ci95; empty before the first
    metrics_bytes: int  # length of metrics.jsonl
    tensors: dict[str, Tensor]  # weights.NAME, exp_avg.NAME, exp_avg_sq.NAME
    validates: bool = False  # the validation of this iteration is still to be done

    @property
    def weights(self) -> Weights:
        return {name.removeprefix("weights."): t for name, t in self.tensors.items() if name.startswith("weights.")}


class Run:
    """Paths of a run directory, and the reading and writing of each."""

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.config_path = self.directory / "config.toml"
        self.metrics_path = self.directory / "metrics.jsonl"
        self.weights_path = self.directory / "weights.safetensors"
        self.trained_path = self.directory / "trained.safetensors"
        self.checkpoint_path = self.directory / "last" / "checkpoint.safetensors"
        self.initial_path = self.directory / "initial.safetensors"
        self.ticket_path = self.directory / "ticket.safetensors"
        self.kept_path = self.directory / "kept"

    def config(self) -> TrainConfig:
        if not self.directory.is_dir():
            raise UserError(
                f"{self.directory} is not a run directory (it does not exist); "
                f"train one with gems-edge train -o {self.directory}"
            )
        return read_config(self.config_path)

    def weights(self) -> Weights:
        """The best weights on validation."""
        return _load(self.weights_path, "the run has no finished validation yet; train it longer (--resume)")

    def model(self, config: TrainConfig | None = None) -> tuple[FewShotModel, Weights]:
        """The run's model (with a ticket's masks or compact widths) and its best weights, the rule's φ among them.

        `config`: the run's with another normalisation mode, for instance. UserError if config, ticket and weights do
        not fit each other.
        """
        config = config or self.config()
        model, weights = self.empty_model(config), self.weights()
        return model, fitting(config, model, weights, self.weights_path)

    def distribution(self, name: str) -> "Run":
        """The run of one distribution inside a multi-maml run."""
        return Run(self.directory / "distributions" / name)

    def distributions(self) -> dict[str, "Run"]:
        """The runs that a multi-maml run consists of; none for any other run."""
        config = self.config()
        if not config.rule.one_model_each:
            return {}
        return {name: self.distribution(name) for name in map(distribution_name, config.data)}

    def ticket(self, config: TrainConfig) -> Ticket | None:
        """The ticket that the run trains; None for a dense one."""
        if config.dense:
            return None
        return check_fits(load_ticket(self.ticket_path), config.model_spec(), self.ticket_path)

    def empty_model(self, config: TrainConfig) -> FewShotModel:
        """The model of a resolved config and its ticket, with weights that mean nothing."""
        ticket = self.ticket(config)
        if ticket is None:
            return FewShotModel(config.model_spec())
        model = FewShotModel(ticket.spec(config.model_spec()), ticket.masks if ticket.unit == "weight" else None)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors().items()}
        odd = [name for name, mask in model.masks.items() if tuple(mask.shape) != shapes.get(name)]
        if odd:
            raise UserError(f"{self.ticket_path} does not fit the model: it has no weight {odd[0]} of the mask's shape")
        return model

    def initial(self) -> Weights:
        """The weights that training started from, where they are not all the seed's."""
        return _load(self.initial_path, "train the run anew in another directory")

    def start(self, config: TrainConfig) -> Weights:
        """The weights that training starts from: those that the run holds, or θ0 where it has none yet."""
        return self.initial() if self.initial_path.exists() else first_weights(config)

    def save_initial(self, weights: Weights) -> None:
        write_sealed(self.initial_path, save(_plain(weights)))

    def kept(self, iteration: int) -> Weights:
        """The weights after `iteration` steps; UserError if the run did not keep them (see --keep)."""
        if not (path := self._kept_file(iteration)).exists():
            kept = ", ".join(map(str, self.kept_iterations())) or "none"
            raise UserError(
                f"{self.directory} did not keep its weights of iteration {iteration} (kept: {kept}); "
                f"choose one of those, or train it with --keep {iteration}"
            )
        return _load(path, "train the run anew")

    def kept_iterations(self) -> list[int]:
        return sorted(int(path.stem) for path in self.kept_path.glob("*.safetensors"))

    def save_kept(self, iteration: int, weights: Weights) -> None:
        self.kept_path.mkdir(exist_ok=True)
        write_sealed(self._kept_file(iteration), save(_plain(weights)))

    def _kept_file(self, iteration: int) -> Path:
        return self.kept_path / f"{iteration}.safetensors"

    def complete(self) -> bool:
        """Whether every distribution of a multi-maml run has weights; true for any other run."""
        return all(part.weights_path.exists() for part in self.distributions().values())

    def spent(self) -> dict[str, float]:
        """Seconds of wall clock and of processor time that training has taken so far, as the last log line says."""
        if self.config_path.exists() and (parts := self.distributions()):
            spent = [part.spent() for part in parts.values()]
            return {name: sum(each.get(name, 0.0) for each in spent) for name in ("seconds", "cpu_seconds")}
        last = self.metrics()[-1:]
        return {name: line[name] for line in last for name in ("seconds", "cpu_seconds") if name in line}

    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.metrics_path)

    def finished(self) -> bool:
        """Whether training has reached its last iteration, and what --keep-general does behind it."""
        if parts := self.distributions():
            return all(part.config_path.exists() and part.finished() for part in parts.values())
        config, checkpoint = self.config(), self.checkpoint()
        if checkpoint is None or checkpoint.iteration < config.iterations or checkpoint.validates:
            return False
        return not config.keep_general or self.trained_path.exists()

    def save_weights(self, weights: Weights) -> None:
        write_sealed(self.weights_path, save(_plain(weights)))

    def trained(self) -> Weights:
        """The best weights as they were trained, before --keep-general drew them back."""
        hint = "train the run anew in another directory"
        return _load(self.trained_path, hint) if self.trained_path.exists() else self.weights()

    def save_drawn(self, trained: Weights, drawn: Weights) -> None:
        """Weights that were drawn back, in the place of the trained ones, which are kept beside them."""
        write_sealed(self.trained_path, save(_plain(trained)))
        self.save_weights(drawn)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        metadata = {
            "iteration": str(checkpoint.iteration),
            "best": json.dumps(checkpoint.best),
            "metrics_bytes": str(checkpoint.metrics_bytes),
        }
        if checkpoint.validates:
            metadata["validates"] = "true"
        self.checkpoint_path.parent.mkdir(exist_ok=True)
        write_sealed(self.checkpoint_path, save(_plain(checkpoint.tensors), metadata))

    def checkpoint(self) -> Checkpoint | None:
        if not self.checkpoint_path.exists():
            return None
        hint = "train the run anew in another directory"
        tensors, metadata = _read(self.checkpoint_path, hint)
        try:
            iteration, size = (_count(metadata[name]) for name in ("iteration", "metrics_bytes"))
            validates = metadata.get("validates") == "true"
            return Checkpoint(iteration, _best(metadata["best"]), size, tensors, validates)
        except (KeyError, ValueError, UserError):
            raise UserError(f"{self.checkpoint_path} is no checkpoint of a training; {hint}") from None

    def log(self, record: dict[str, Any]) -> None:
        append_metrics(self.metrics_path, record)

    def cut_metrics(self, size: int) -> None:
        """Drop what was logged after the checkpoint that training goes on from."""
        if self.metrics_path.exists():
            os.truncate(self.metrics_path, min(size, self.metrics_path.stat().st_size))

    def stored_metrics_size(self) -> int:
        """Bytes of metrics.jsonl, all of them on disk: a checkpoint refers to them."""
        if not self.metrics_path.exists():
            return 0
        with opened(self.metrics_path) as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def remove_leftovers(self) -> None:
        """Delete the temporary files that a kill inside write_atomic leaves."""
        for directory in (self.directory, self.checkpoint_path.parent, self.kept_path):
            for path in directory.glob(".*.tmp"):
                path.unlink(missing_ok=True)


def fitting(config: TrainConfig, model: FewShotModel, weights: Weights, path: Path) -> Weights:
    """`weights` if they have the names and shapes of the model and of its update rule's φ, else UserError."""
    network = model.tensors()
    channels = model.spec.shape.feature_channels
    with torch.random.fork_rng(devices=[]):
        expected = {
            name: tuple(tensor.shape) for name, tensor in (network | rule_of(config).initial(network, channels)).items()
        }
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != shapes:
        odd = next(name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name))
        raise UserError(
            f"{path} does not fit the run's config: "
            f"{odd} is {shapes.get(odd, 'missing')}, not {expected.get(odd, 'there')}"
        )
    return {name: weights[name] for name in expected}


def _load(path: Path, hint: str) -> dict[str, Tensor]:
    return _read(path, hint)[0]


def _read(path: Path, hint: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file; UserError that ends in `hint` for what has none."""
    try:
        content, metadata = read_sealed(path)
        return by_name(load(content)), metadata
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {hint}") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path} is no file; {hint}") from None
    except UserError as error:
        raise UserError(f"{error}; {hint}") from None
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); {hint}") from None


def _count(text: str) -> int:
    """ValueError for what no counter says."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(text)
    return int(text)


def _best(text: str) -> dict[str, float]:
    """The best validation; ValueError or UserError for anything else."""
    best = parse_json(text.encode(), "the best validation")
    if not isinstance(best, dict) or not all(type(value) in (int, float) for value in best.values()):
        raise ValueError(text)
    if best and not best.keys() >= {"iteration", "accuracy", "ci95"}:
        raise ValueError(text)
    return best


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def first_weights(config: TrainConfig) -> Weights:
    """θ0 of the dense model: the backbone's of a pretraining where --init names one, all else the seed's.

    UserError for weights that cannot be had, that are another network's, and for another file than the config's.
    """
    weights = seeded_weights(config)
    if config.init == RANDOM:
        return weights
    spec = config.model_spec()
    if config.init == PRETRAINED and spec.widths != spec.topology.dense.widths:
        raise UserError(
            f"--init pretrained: the weights of {config.backbone} have its full widths; leave --widths and "
            "--width-multiplier out (export --ratio makes it narrower)"
        )
    body = read_pretrained(config.init, config.backbone)
    if not body.about.sha256.startswith(config.pretrained.sha256):
        raise UserError(
            f"--init {config.init} is another file than these settings were made with (its SHA-256 is "
            f"{body.about.sha256[:16]}…, not {config.pretrained.sha256[:16]}…); name --init anew, or bring the old one"
        )
    return weights | fitting_body(body, weights, config.backbone)


def seeded_weights(config: TrainConfig, other: int = 0) -> Weights:
    """θ0 of the dense model, and φ0 of its update rule: they depend on the config's seeds alone.

    `other` > 0 draws afresh. The global generator is left as it was.
    """
    seed = config.seed if config.init_seed < 0 else config.init_seed
    with torch.random.fork_rng(devices=[]):
        # torch uses only the lower 32 bits of a seed.
        torch.manual_seed(int(np.random.SeedSequence([seed, other]).generate_state(1)[0]) if other else seed)
        model = FewShotModel(config.model_spec())
        weights = model.tensors()
        return weights | rule_of(config).initial(weights, model.spec.shape.feature_channels)
