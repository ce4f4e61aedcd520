"""The installed board package on emulated Raspberry Pis learns and answers as it does on this machine."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from boards import BOARDS
from count_instructions import BUNDLES
from handmade import pictures, write_pictures, write_tested
from PIL import Image
from userland import install_board_package, run

from gems_edge.device import Learner
from gems_edge.device.bundle import read_bundle
from gems_edge.device.support import read_support

pytestmark = pytest.mark.slow(60)

# What an owner does with a state, and with a directory that bundles are installed into.
LIFE = """adapt small.gems --support photos --threads 1 -o life.state
teach small.gems life.state --add more --threads 1
teach small.gems life.state --rename kind3=mug
teach small.gems life.state --move 7=kind0 --threads 1
teach small.gems life.state --undo --threads 1
teach small.gems life.state --forget kind0 --threads 1
teach small.gems life.state --list
predict small.gems --state life.state --threads 1 queries --coverage 0.9
install small.gems --into board --threads 1
adapt board/current/bundle.gems --support photos --threads 1 -o board/current/taught.state
install other.gems --into board --threads 1 --worse 100 --most-time 1e6 --most-memory 1e6
rollback board
"""

LIVED = {"life.txt", "life.state", "more", "other.gems", "board"}

# One process a board: the start of Python and onnxruntime is most of the time under emulation.
SCRIPT = """
import json, platform, sys
from gems_edge.cli.main import main
from gems_edge.device.host import host_facts
import gems_edge

def call(line):
    sys.argv = ["gems-edge", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end)

cpu = sys.argv[1]
call(f"adapt small.gems --support photos --threads 1 -o {cpu}.state")
call(f"predict small.gems --state {cpu}.state --threads 1 queries --json")
print("LIFE")
if cpu == "cortex-a72":
    for line in open("life.txt"):
        call(line)
print("FACTS", json.dumps(host_facts() | {"package": gems_edge.__file__, "loaded": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def home(root, bundle, tmp_path_factory) -> Path:
    """A board's home as a user leaves it: ~/env with gems-edge, and a bundle."""
    home = tmp_path_factory.mktemp("board") / "pi"
    home.mkdir()
    install_board_package(root, home)
    shutil.copytree(bundle(next(iter(BUNDLES))), home / "small.gems")
    write_tested(home / "other.gems")
    write_pictures(home / "more", pictures(1, 2, seed=3)[0], ["kind3", "kind3"])
    (home / "life.txt").write_text(LIFE)
    return home


@pytest.fixture(scope="module")
def photos(home):
    """Three classes of textures, two photos of each to learn from and two more to tell apart."""
    generator = np.random.default_rng(5)
    for number in range(3):
        pattern = Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8)).resize((40, 40))
        for copy in range(4):
            pixels = np.clip(np.asarray(pattern, float) + generator.normal(0, 15, (40, 40)), 0, 255).astype(np.uint8)
            place = home / "photos" / f"kind{number}" if copy < 2 else home / "queries"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}-{copy}.png")
    return home


@pytest.fixture(scope="module")
def sessions(root, photos):
    """What each board said, and the files in its home afterwards."""
    (photos / "session.py").write_text(SCRIPT)

    def session(cpu):
        return run(
            root, cpu, photos, ["env/bin/python", "session.py", cpu], capture_output=True, text=True, timeout=900
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BOARDS, pool.map(session, BOARDS)))


@pytest.fixture(scope="module")
def here(photos):
    """The same on this machine: the state's tensors, and probabilities by query."""
    learner = Learner.load(photos / "small.gems", threads=1)
    support = read_support(photos / "photos", learner.bundle)
    learner.adapt(support.images, support.labels)
    queries = sorted((photos / "queries").iterdir())
    return learner.taught.tensors, learner.classes, learner.predict(learner.read_images(queries))


@pytest.mark.parametrize("cpu", BOARDS)
def test_a_board_learns_and_answers_as_this_machine(cpu, sessions, here, photos):
    done = sessions[cpu]
    assert done.returncode == 0, done.stderr
    tensors, classes, probabilities = here
    board = Learner.load(photos / "small.gems")
    learned = board.load_state(photos / f"{cpu}.state").tensors
    assert learned.keys() == tensors.keys() and board.classes == classes
    for name, tensor in tensors.items():
        assert np.abs(learned[name] - tensor).max() <= 1e-5 * max(1, np.abs(tensor).max()), name
    answers = json.loads(done.stdout[done.stdout.index("[\n") : done.stdout.index("LIFE")])
    assert [answer["label"] for answer in answers] == [classes[best] for best in probabilities.argmax(axis=1)]
    found = np.array([[answer["probabilities"][name] for name in classes] for answer in answers])
    assert np.abs(found - probabilities).max() < 1e-4


@pytest.mark.parametrize("cpu", BOARDS)
def test_a_board_tells_what_it_is_and_loads_the_installed_package(cpu, sessions):
    facts = json.loads(sessions[cpu].stdout.rpartition("FACTS")[2])
    assert facts["machine"] == "aarch64" and facts["cpu"].lower() == cpu and facts["throttled"] == "0x0"
    assert facts["board"] == BOARDS[cpu].model
    assert facts["highest_clock_mhz"] == facts["firmware_clock_mhz"] == BOARDS[cpu].max_mhz
    assert facts["package"].startswith("/home/pi/env/lib/")
    assert not {"torch", "onnx", "scipy", "matplotlib"} & set(facts["loaded"])


def test_what_was_taught_comes_and_goes_and_bundles_are_changed(sessions, photos):
    done = sessions["cortex-a72"]
    said = done.stdout.partition("LIFE")[2]
    assert done.returncode == 0, done.stderr
    life = Learner.load(photos / "small.gems")
    changes = [version.change for version in life.load_state(photos / "life.state").versions]
    assert life.classes == ("kind1", "kind2", "mug") and changes[-1] == "forgot kind0"
    assert "taught kind3 (2 photos)" in said and "moved photo 7 to kind0" in said and "forecast" in said
    board = read_bundle(photos / "board" / "current" / "bundle.gems")
    assert board.hash == life.bundle.hash and (photos / "board" / "2" / "bundle.gems").is_dir()


def test_nothing_is_left_in_the_home_but_the_states(sessions, photos):
    assert all(done.returncode == 0 for done in sessions.values())
    expected = {"env", "photos", "queries", "session.py", "small.gems", *LIVED, *(f"{cpu}.state" for cpu in BOARDS)}
    assert {path.name for path in photos.iterdir() if path.suffix != ".whl"} == expected


def test_the_installed_command_starts_and_says_what_it_lacks(root, home):
    script = "uname -m; env/bin/gems-edge devices list; env/bin/gems-edge train -o run; echo exit code $?"
    done = run(root, "cortex-a53", home, ["sh", "-c", script], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "aarch64" and "rpi-zero-2w" in done.stdout and lines[-1] == "exit code 2", done.stderr
    assert "gems-edge[train]" in done.stderr and "Traceback" not in done.stderr
