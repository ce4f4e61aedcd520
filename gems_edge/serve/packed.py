"""A state as one file, to take away."""

import io
import zipfile
from pathlib import Path


def zipped(state: Path) -> bytes:
    """The state's directory as a zip of files NAME.state/…: unpacked, it is the state again."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # not compressed: floats and JPEGs hardly shrink
        for file in sorted(state.rglob("*")):
            if file.is_file() and not file.is_symlink():
                archive.write(file, Path(state.name) / file.relative_to(state))
    return packed.getvalue()
