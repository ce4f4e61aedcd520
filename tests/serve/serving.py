"""A real server in a thread of this process, which listens at loopback, and photos to send."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import handmade
import httpx
import numpy as np
from PIL import Image

from gems_edge.device import Learner
from gems_edge.serve.classroom import Classroom
from gems_edge.serve.served import Served
from gems_edge.serve.server import Beside, Server, open_socket

BUNDLE = {"method": "anil", "normalization": "group", "split": True}


def png(image: np.ndarray) -> bytes:
    """Of an image [S, S, 1] in 0…1."""
    out = io.BytesIO()
    pixels = image if image.dtype == np.uint8 else np.rint(255 * image).astype(np.uint8)
    Image.fromarray(pixels[..., 0]).save(out, "PNG")
    return out.getvalue()


def photos(classes: int = 4, shots: int = 3, seed: int = 0) -> list[list[bytes]]:
    """PNG files, by class."""
    images, _ = handmade.pictures(classes, shots, seed=seed)
    files = [png(image) for image in images]
    return [files[shots * number : shots * (number + 1)] for number in range(classes)]


@dataclass(frozen=True)
class Phone:
    """Who asks a server."""

    client: httpx.Client
    server: Server

    def teach(self, name: str, files: list[bytes]) -> httpx.Response:
        forms = [("photo", (f"{number}.png", file)) for number, file in enumerate(files)]
        return self.client.post("/api/teach", data={"class": name}, files=forms)

    def do(self, verb: str, **fields: object) -> httpx.Response:
        return self.client.post(f"/api/{verb}", json=fields)

    def ask(self, file: bytes, **query: object) -> httpx.Response:
        return self.client.post("/api/predict", content=file, params=query)

    def raw(self, content: bytes, seconds: float = 10) -> bytes:
        """What comes back for these bytes until the server closes, or for so long."""
        url = self.client.base_url
        with socket.create_connection((url.host, url.port), timeout=seconds) as connection:
            came = b""
            with contextlib.suppress(OSError):
                connection.sendall(content)
                while part := connection.recv(65536):
                    came += part
            return came

    @property
    def state(self) -> dict:
        return self.client.get("/api/state").json()

    @property
    def classes(self) -> dict[str, list[int]]:
        return {each["class"]: [photo["number"] for photo in each["photos"]] for each in self.state["classes"]}


def bundle_in(place: Path) -> Path:
    path = place / "h.gems"
    return path if path.exists() else handmade.write_bundle(path, **BUNDLE)


@contextlib.contextmanager
def serving(place: Path, token: str | None = None, beside: Sequence[Beside] = ()) -> Iterator[Phone]:
    """A server of place/s.state, and what goes on beside it."""
    classroom = Classroom(Learner.load(bundle_in(place), threads=1), place / "s.state")
    listening = open_socket("127.0.0.1", 0)
    server = Server(Served(classroom), token, beside=beside)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        with httpx.Client(base_url=url, timeout=120) as client:
            yield Phone(client, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
