"""gems-edge serve under a real browser, under many clients at once, and under requests that are no good.

  python tools/bench_serve.py BUNDLE [--data packed:FILE.npz] [--seconds 10] [--clients 50] [-o FILE.json]

Teaches a server classes of the test split. Then, one after the other: a real Chromium, whose camera plays photos that
were not taught, opens the page (left out, with a reason, where there is no Chromium); so many clients, each from an
address of its own, ask about photos all the time, and every answer is compared with `Learner.answers`; and requests
that are no good are sent. Ends with 1 for a wrong answer, a failure of the server, or a state that has changed.
"""

import io
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import pytest
from bundle_images import images_for
from malformed_requests import malformed
from PIL import Image

from gems_edge.cli.values import IMAGE_SETS
from gems_edge.data.mixture import mixture_sampler
from gems_edge.data.shots import Shots
from gems_edge.data.specs import Specs
from gems_edge.device.bundle import Bundle, read_bundle
from gems_edge.device.learner import Learner
from gems_edge.files import write_atomic

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "serve")]

from chromium import Page, Started, opened, started  # noqa: E402
from fake_camera import open_camera  # noqa: E402

QUERIES = 4  # of each class
_OTHER = "".join(
    (
        "performance.setResourceTimingBufferSize(100000);",
        "new MutationObserver(() => { const said = document.getElementById('answer')?.innerText;",
        "if (said && !['Hello', 'Keep going', '…'].includes(said)) window.firstAnswer ??= performance.now(); })",
        ".observe(document, {subtree: true, childList: true, characterData: true});",
    )
)


@dataclass(frozen=True)
class Photos:
    """Of classes that the bundle was not trained on, as PNG files: those to teach and those to ask about, by class."""

    taught: dict[str, list[bytes]]
    asked: dict[str, list[bytes]]


def photos_for(bundle: Bundle, data: Specs | None, ways: int, shots: int) -> Photos:
    images = images_for(bundle, data)
    [sampler, *_] = mixture_sampler(images, "test", ways, Shots.given(shots), QUERIES, 0).samplers
    drawn = sampler.draw(0, 0)

    def files(indices: np.ndarray) -> list[bytes]:
        pixels = images.images[indices]
        return [png(255 - each if bundle.inverted else each) for each in pixels]

    names = [f"class {number}" for number in range(ways)]
    taught = {name: files(drawn.support[drawn.labels == number]) for number, name in enumerate(names)}
    return Photos(taught, {name: files(drawn.query[number]) for number, name in enumerate(names)})


def png(pixels: np.ndarray) -> bytes:
    """A file of uint8 [S, S, 1 or 3]."""
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def teach(url: str, photos: Photos) -> None:
    for name, files in photos.taught.items():
        form = [("photo", (f"{number}.png", file)) for number, file in enumerate(files)]
        httpx.post(f"{url}api/teach", data={"class": name}, files=form, timeout=120).raise_for_status()


def browsed(page: Page, url: str, photos: Photos, seconds: float) -> dict[str, Any]:
    """What a person waits for, and how many answers a second there are; what the page names of photos."""
    page.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _OTHER})
    firsts = []
    page.open(url)  # the camera must run before it can show anything
    _show(page, next(iter(photos.asked.values()))[0])
    for _ in range(3):
        page.open(url)
        firsts.append(page.until(lambda: page.run("return window.firstAnswer")) / 1e3)
    before, began = _answers(page), time.perf_counter()
    time.sleep(seconds)
    rate = (_answers(page) - before) / (time.perf_counter() - began)
    right = 0
    for name, files in photos.asked.items():
        for file in files:
            _show(page, file)
            time.sleep(1.0)
            right += page.answer == name
    asked = sum(map(len, photos.asked.values()))
    return {"first_answer_s": [round(first, 3) for first in firsts], "answers_a_second": round(rate, 1),
            "named_right": right, "named": asked}  # fmt: skip


def _show(page: Page, file: bytes) -> None:
    page.show(Image.open(io.BytesIO(file)))


def _answers(page: Page) -> int:
    script = "return performance.getEntriesByType('resource').filter(each => each.name.includes('/api/predict')).length"
    return int(page.run(script))


def crowded(url: str, learner: Learner, photos: Photos, clients: int, seconds: float) -> dict[str, Any]:
    """Many clients ask at once; how many answers came, and how many were others than the learner's own."""
    files = [file for each in photos.asked.values() for file in each]
    right = [(answer.name, answer.guess) for answer in learner.answers(learner.read_images(files))]
    rows = [[0, 0, 0] for _ in range(clients)]  # answers, wrong, refused
    ready = threading.Barrier(clients)

    def ask(place: int) -> None:
        transport = httpx.HTTPTransport(verify=False, local_address=f"127.0.1.{place % 250 + 1}")
        with httpx.Client(base_url=url, transport=transport, timeout=120) as client:
            ready.wait()
            number, until = place, time.monotonic() + seconds
            while time.monotonic() < until:
                number += 1
                said = client.post("/api/predict", content=files[number % len(files)])
                told = said.json()
                rows[place][0] += said.status_code == 200
                rows[place][2] += said.status_code != 200
                rows[place][1] += (
                    said.status_code == 200 and (told["class"], told["guess"]) != right[number % len(files)]
                )

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers, wrong, refused = (sum(row[column] for row in rows) for column in range(3))
    return {"clients": clients, "answers": answers, "wrong": wrong, "refused": refused,
            "answers_a_second": round(answers / seconds, 1)}  # fmt: skip


def mistreated(url: str, requests: Sequence[bytes]) -> dict[str, int]:
    """How requests that are no good were answered: by status; 0 where the server only closed."""
    port = int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]
    counts: dict[str, int] = {}
    for number, content in enumerate(requests):
        status = _status(port, content, f"127.0.2.{number % 250 + 1}")
        counts[status] = counts.get(status, 0) + 1
    return dict(sorted(counts.items()))


def _status(port: int, content: bytes, source: str) -> str:
    with socket.create_connection(("127.0.0.1", port), 60, (source, 0)) as connection:
        came = b""
        try:
            connection.sendall(content)
            while part := connection.recv(65536):
                came += part
        except ConnectionError:
            pass
    words = came.split(b" ", 2)
    return words[1].decode() if len(words) > 2 else "0"


def resident_mb(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1e3  # type: ignore[index]


@dataclass(frozen=True)
class Load:
    """How much is asked."""

    seconds: float
    clients: int
    malformed: int


def measured(server: Started, learner: Learner, photos: Photos, load: Load, page: Page | None) -> dict[str, Any]:
    """Everything of one server; memory in MB after the first answers, the crowd, and what is no good."""
    url = server.url
    row: dict[str, Any] = {"page": browsed(page, url, photos, load.seconds) if page else None}
    crowded(url, learner, photos, load.clients, min(load.seconds, 3))
    memory = [resident_mb(server.process.pid)]
    before = httpx.get(f"{url}api/state").json()
    for _ in range(2):
        row["crowd"] = crowded(url, learner, photos, load.clients, load.seconds)
        memory.append(resident_mb(server.process.pid))
    row["malformed"] = mistreated(url, list(malformed(load.malformed)))
    memory.append(resident_mb(server.process.pid))
    row["changed"] = httpx.get(f"{url}api/state").json() != before
    return row | {"memory_mb": [round(each, 1) for each in memory]}


def failures(row: dict[str, Any]) -> list[str]:
    """What is wrong with a measurement, in words."""
    found = [f"{row['crowd']['wrong']} wrong answers"] if row["crowd"]["wrong"] else []
    bad = [status for status in row["malformed"] if status.startswith("5") or status.startswith("2")]
    found += [f"{row['malformed'][status]} malformed requests answered with {status}" for status in bad]
    return found + (["the state has changed"] if row["changed"] else []) + (["a traceback"] if row["traceback"] else [])


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=IMAGE_SETS, help="Image sets; default: the bundle's own.")
@click.option("--ways", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--shots", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Of each load.")
@click.option("--clients", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--malformed", "bad", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--browser/--no-browser", default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    bundle: Path, data: Specs | None, ways: int, shots: int, seconds: float, clients: int, bad: int, browser: bool,
    output: Path | None,
) -> None:  # fmt: skip
    about = read_bundle(bundle)
    photos = photos_for(about, data, ways, shots)
    with tempfile.TemporaryDirectory() as place:
        state, said = Path(place) / "bench.state", Path(place) / "said.txt"
        with said.open("w") as errors, started(bundle, state, errors=errors) as server:
            teach(server.url, photos)
            learner = Learner.load(bundle, 1)
            learner.load_state(state)
            row = _row(server, learner, photos, Load(seconds, clients, bad), Path(place) if browser else None)
        row["traceback"] = "Traceback" in said.read_text()
    click.echo(json.dumps(row, indent=2))
    if output:
        write_atomic(output, json.dumps(row, indent=2))
    if found := failures(row):
        click.echo(f"WRONG: {'; '.join(found)}")
        sys.exit(1)


def _row(server: Started, learner: Learner, photos: Photos, load: Load, place: Path | None) -> dict[str, Any]:
    if place is None:
        return measured(server, learner, photos, load, None)
    try:
        with opened(open_camera(place / "camera.y4m"), (390, 844)) as page:
            return measured(server, learner, photos, load, page)
    except pytest.skip.Exception as reason:
        return measured(server, learner, photos, load, None) | {"no_page": str(reason)}


if __name__ == "__main__":
    main()
