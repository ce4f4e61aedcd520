"""A camera for Chromium that shows the picture which a test wants, when it wants it.

Chromium plays a file of raw frames in place of a camera, reading each frame anew. The file here has one frame, which is
written over while it plays.
"""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 320, 240
_HEAD = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F15:1 Ip A1:1 C420jpeg\n".encode() + b"FRAME\n"


def open_camera(path: Path) -> Path:
    """Write a camera's file, which shows grey."""
    path.write_bytes(_HEAD + _frame(Image.new("RGB", (WIDTH, HEIGHT), "grey")))
    return path


def show(path: Path, picture: np.ndarray | Image.Image) -> None:
    """Let the camera at `path` see `picture` (uint8 [H, W] or [H, W, 3]) in its middle, as high as its frames are."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    whole = Image.new("RGB", (WIDTH, HEIGHT), "white")
    whole.paste(image.convert("RGB").resize((HEIGHT, HEIGHT)), ((WIDTH - HEIGHT) // 2, 0))
    with path.open("r+b") as file:
        file.seek(len(_HEAD))
        file.write(_frame(whole))


def options(path: Path) -> list[str]:
    """What Chromium is started with to see it, without asking anybody."""
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={path}",
    ]


def _frame(image: Image.Image) -> bytes:
    """Planes of a picture in 4:2:0, in video's range: black is 16."""
    luma, *chroma = image.convert("YCbCr").split()
    planes = [np.asarray(luma) * (219 / 255) + 16]
    for plane in chroma:
        halved = np.asarray(plane.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BOX))
        planes.append((halved - 128.0) * (224 / 255) + 128)
    return b"".join(np.round(plane).astype(np.uint8).tobytes() for plane in planes)
