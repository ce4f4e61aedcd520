"""Where in a network's code something happened, for messages."""

import re
import traceback
from pathlib import Path

# Code between the network's own and the place where an error comes up.
_FOREIGN = ("/torch/", "/importlib/", "<frozen importlib", "/contextlib.py", str(Path(__file__).parents[1]))
_FRAME = re.compile(r'File "(.+)", line (\d+)')
_OURS = str(Path(__file__).parent / "backbones")


def line_of(error: BaseException) -> str:
    """The last line of the network's code that an error comes from: 'net.py:12 (x = y[3])'."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_networks(frame.filename)]
    if not frames:
        return "its code"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].line})"


def line_in(stack: str) -> str:
    """The last line of the network's code in a stack that was written down: 'net.py:12', or ''."""
    frames = [(file, number) for file, number in _FRAME.findall(stack) if _is_networks(file)]
    return "".join(f"{Path(file).name}:{number}" for file, number in frames[-1:])


def _is_networks(file: str) -> bool:
    return file.startswith(_OURS) or not any(part in file for part in _FOREIGN)
