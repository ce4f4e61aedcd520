"""A network that a user brings: a function in a Python file, `--backbone my_net.py:make`.

The file is code, and runs on the workstation where its owner asked for it. A run keeps a copy (`COPY`) and its SHA-256,
and uses the copy from then on. No bundle holds it, and no board runs it.
"""

import contextlib
import inspect
import linecache
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gems_edge.errors import UserError
from gems_edge.files import read_file, sha256_bytes
from gems_edge.models.code_places import line_of

if TYPE_CHECKING:
    from torch import nn

# The copy in a run's directory.
COPY = "backbone.py"
FORM = "FILE.py:FUNCTION"
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class NetworkFile:
    """The table [backbone_file] of config.toml; empty for a network of the registry. The text is not in the table."""

    sha256: str = ""
    source: str = field(default="", repr=False, metadata={"stored": False})


NO_FILE = NetworkFile()


def names_file(backbone: str) -> bool:
    """Whether a backbone is a function in a file."""
    return ".py:" in backbone and bool(_split(backbone)[1])


def read_network_file(backbone: str) -> tuple[str, NetworkFile]:
    """The file that "path/my_net.py:make" names, and the name that it has from now on: "my_net.py:make"."""
    path, function = _split(backbone)
    return f"{path.name}:{function}", _file(path, f"--backbone {backbone}")


def stored_network_file(run: Path, sha256: str) -> NetworkFile:
    """The copy in a run's directory; UserError if it is missing or another one."""
    copy = run / COPY
    file = _file(copy, f"{run}: the copy of its network")
    if file.sha256 != sha256:
        raise UserError(
            f"{copy} is not the file that the run was trained with (its SHA-256 is not that of config.toml); put that "
            "file back, or train a run anew"
        )
    return file


def _split(backbone: str) -> tuple[Path, str]:
    path, _, function = backbone.rpartition(":")
    return Path(path), function


def _file(path: Path, what: str) -> NetworkFile:
    try:
        content = read_file(path, _MOST_BYTES)
        return NetworkFile(sha256_bytes(content), content.decode())
    except FileNotFoundError:
        raise UserError(f"{what}: {path} does not exist") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(f"{what}: {path} is no file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {path} is no Python file ({error})") from None


def network_of_file(name: str, file: NetworkFile, values: dict[str, Any]) -> "nn.Module":
    """The module that the function makes, with whatever it takes of `values`: channels, width_multiplier, image_size.

    `name`: as of `read_network_file`. UserError with the file's line where it fails.
    """
    from torch import nn

    function = _function(name, file)
    arguments = taken_by(function, name, values)
    with _users_code(name):
        network = function(**arguments)
    if not isinstance(network, nn.Module):
        what = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise UserError(f"{name} returns {what}, not a torch module; return the network itself")
    return network


def _function(name: str, file: NetworkFile) -> Callable[..., Any]:
    path, function = _split(name)
    module = types.ModuleType(f"gems_edge_network_{file.sha256}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and the like look for it
    linecache.cache[str(path)] = len(file.source), None, file.source.splitlines(keepends=True), str(path)
    with _users_code(name):
        exec(compile(file.source, str(path), "exec", dont_inherit=True), module.__dict__)
    make = getattr(module, function, None)
    if not callable(make):
        functions = [n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_")]
        raise UserError(f"{name}: no function {function} in {path}; it has {', '.join(functions) or 'none'}")
    return make  # type: ignore[no-any-return]  # callable


@contextlib.contextmanager
def _users_code(name: str) -> Iterator[None]:
    """Where the file's code runs: what it prints is no result, and a run keeps this one file, none beside it."""
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if entry not in ("", os.getcwd())]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name}: {line_of(error)} imports {error.name}, which is not installed; a network is one file that needs "
            "no other beside it"
        ) from None
    except SyntaxError as error:
        raise UserError(
            f"{name}: line {error.lineno} is no Python ({error.msg}): {(error.text or '').strip()}"
        ) from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {line_of(error)} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = path


def taken_by(function: Callable[..., Any], name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the function takes of the values. UserError for one that asks for others, or has no use for a multiplier."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = types.MappingProxyType({})
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    asked = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in optional]
    if odd := [parameter for parameter in asked if parameter not in values]:
        raise UserError(
            f"{name} asks for {odd[0]}; a network is made from (channels, width_multiplier=1.0, image_size=224), "
            "or from less"
        )
    multiplier = values["width_multiplier"]
    if multiplier != 1 and "width_multiplier" not in parameters:
        raise UserError(
            f"--width-multiplier {multiplier:g}: {name} takes no width_multiplier; give it one, or use --widths"
        )
    return {parameter: value for parameter, value in values.items() if parameter in parameters}
