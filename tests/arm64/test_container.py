"""The container file and the systemd unit of docs/fleet on an emulated Raspberry Pi 4: what they start is taught."""

import contextlib
import json
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

import handmade
import httpx
import pytest
from boards import write_board
from container import PATH, SRV, container_of, context, unit_command, until_a_line
from debian import Unavailable
from userland import REPOSITORY, build_wheel, enter, run

FLEET = REPOSITORY / "docs" / "fleet"
CPU = "cortex-a72"

pytestmark = pytest.mark.slow(60)


@pytest.fixture(scope="module")
def image(root, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """A board's home after the container file's steps, with a bundle, and the command of its image."""
    home = tmp_path_factory.mktemp("container") / "pi"
    home.mkdir()
    container = container_of(FLEET / "Containerfile")
    try:
        environment = context(home, build_wheel(home))
    except Unavailable as reason:
        pytest.skip(str(reason))
    run(root, CPU, home, ["sh", "-c", container.steps], environment, check=True)
    handmade.write_bundle(home / "srv" / "bundle.gems", method="anil", normalization="group", split=True)
    handmade.write_pictures(home / "photos", *handmade.pictures(3, 3))
    return home, container.command


@contextlib.contextmanager
def started(root, home, command):
    """What the board serves: a client that trusts its certificate, and how it ends."""
    with tempfile.TemporaryDirectory() as board:
        write_board(CPU, Path(board))
        passed = {"PATH": "/usr/bin:/bin", "ARM64_ENVIRONMENT": f"PATH={PATH}"}
        line = until_a_line([*command, "--port", "0", "--threads", "1", "--json"])
        program = subprocess.Popen(
            [*enter(root, Path(board), home), *line],
            env=passed, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            said = program.stdout.readline()
            assert said, program.stderr.read()
            document = json.loads(said)
            state = home / "srv" / "taught" / "taught.state"
            trusted = ssl.create_default_context(cafile=state.with_name(f"{state.name}.pem"))
            port = httpx.URL(document["urls"][0]).port
            headers = {"Authorization": f"Bearer {document['token']}"}
            with httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=trusted, headers=headers, timeout=60
            ) as client:
                yield client
            _, error = program.communicate("stop\n", timeout=60)
            assert program.returncode == 143 and "stopped by SIGTERM" in error and "Traceback" not in error
        finally:
            program.kill()
            program.communicate()


def test_what_a_container_is_taught_a_service_knows(root, image):
    home, command = image
    cups, mugs, plates = (
        [read.read_bytes() for read in sorted(each.iterdir())] for each in sorted((home / "photos").iterdir())
    )

    def teach(client, name, files):
        forms = [("photo", (f"{number}.png", file)) for number, file in enumerate(files)]
        assert client.post("/api/teach", data={"class": name}, files=forms).status_code == 200

    with started(root, home, command) as client:
        for name, files in (("cup", cups), ("mug", mugs), ("plate", plates)):
            teach(client, name, files[:2])
        assert client.post("/api/forget", json={"class": "plate"}).status_code == 200
        before = client.get("/api/state").json()
        answers = [client.post("/api/predict", content=files[2]).json()["shares"] for files in (cups, mugs)]
    shutil.copytree(home / "srv" / "bundle.gems", home / "srv" / "taught" / "bundle.gems")  # where the unit has it
    unit = unit_command(FLEET / "gems-edge-serve.service", f"{SRV}/taught")
    with started(root, home, unit) as client:
        assert client.get("/api/health").json()["generation"] == before["generation"]
        assert client.get("/api/state").json() == before
        assert [client.post("/api/predict", content=files[2]).json()["shares"] for files in (cups, mugs)] == answers
        assert client.post("/api/undo", json={"changes": 1}).status_code == 200
        assert "plate" in client.get("/api/state").text
