"""`--backbone FILE.py:FUNCTION`, through the command line: a run keeps the file and uses its copy; a bad one is refused
in one line before anything is written."""

import json
import re
import shutil
import textwrap
import tomllib

import pytest
from small_settings import EXPORT, SMALL

from gems_edge.files import sha256_bytes

NET = '''
"""A small network with a strided stem and a residual block."""
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def make(channels, width_multiplier=1.0):
    width = round(16 * width_multiplier)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU(), Block(width), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def fixed():
    return make(1)
'''
QUICK = [
    *SMALL[: SMALL.index("--widths")], *SMALL[SMALL.index("--widths") + 2 :], "--iterations", "3",
    "--validation-episodes", "2",
]  # fmt: skip


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def trained(made_once, cli_here):
    """A run of NET; look, don't touch."""

    def make(directory):
        directory.mkdir()
        (directory / "net.py").write_text(NET)
        cli_here("train", *QUICK, "--backbone", directory / "net.py:make", "-o", directory / "run")
        (directory / "net.py").unlink()

    return made_once("network-file", make) / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def config_of(run):
    return tomllib.loads((run / "config.toml").read_text())


def test_a_run_keeps_the_file(trained):
    config = config_of(trained)
    assert config["backbone"] == "net.py:make" and config["widths"] == [16]
    assert (trained / "backbone.py").read_text() == NET
    assert config["backbone_file"] == {"sha256": sha256_bytes(NET.encode())}


def test_every_command_uses_the_copy(run, tmp_path, cli_here):
    """The original is gone."""
    cli_here("evaluate", run, "--episodes", "2")
    cli_here("train", "--resume", "-o", run)
    cli_here("train", "--config", run / "config.toml", "-o", tmp_path / "again")
    for name in ("weights.safetensors", "backbone.py"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    ticket = ["--ticket", "mwt", "--ratio", "0.5", "--unit", "channel", "--dense-run", run]
    cli_here("train", "--config", run / "config.toml", *ticket, "-o", tmp_path / "sparse")
    cli_here("ticket", "show", tmp_path / "sparse")
    cli_here("report", run, tmp_path / "sparse", "-o", tmp_path / "page.html")
    options = [*EXPORT[: EXPORT.index("--ratio")], *EXPORT[EXPORT.index("--ratio") + 2 :]]
    cli_here("export", run, "--ratio", "0.33", *options, "-o", tmp_path / "net.gems")
    assert "def make" not in (tmp_path / "net.gems" / "manifest.json").read_text()
    assert not list((tmp_path / "net.gems").glob("*.py"))


def test_reading_a_run_for_a_page_runs_no_code(run, tmp_path, cli_here):
    (run / "backbone.py").write_text("raise SystemExit('ran')")
    cli_here("report", run, "-o", tmp_path / "page.html")


def test_a_changed_copy_is_refused(run, cli_here):
    with open(run / "backbone.py", "a") as file:
        file.write("\n")
    for command in (("evaluate", run), ("export", run), ("train", "--resume", "-o", run)):
        assert "backbone.py is not the file that the run was trained with" in cli_here(*command, code=2).stderr
    (run / "backbone.py").unlink()
    assert "backbone.py does not exist" in cli_here("evaluate", run, code=2).stderr


def test_resuming_with_the_original(run, net, cli_here):
    cli_here("train", "--resume", "-o", run, "--backbone", f"{net}:make")
    net.write_text(NET.replace("16 *", "24 *"))
    message = cli_here("train", "--resume", "-o", run, "--backbone", f"{net}:make", code=2).stderr
    assert "was started with" in message


@pytest.mark.parametrize("function, multiplier, widths", [("make", 0.5, [8]), ("fixed", 1, [16])])
def test_what_the_function_takes(net, tmp_path, cli_here, function, multiplier, widths):
    options = ("--width-multiplier", multiplier, "--backbone", f"{net}:{function}")
    cli_here("train", *QUICK, "--iterations", "0", *options, "-o", tmp_path / "run")
    assert config_of(tmp_path / "run")["widths"] == widths


def test_a_config_with_another_multiplier(run, tmp_path, cli_here):
    """The multiplier stands for the widths of the config that it changes."""
    cli_here("train", "--config", run / "config.toml", "--width-multiplier", "0.75", "-o", tmp_path / "narrow")
    assert config_of(tmp_path / "narrow")["widths"] == [12]
    cli_here("train", "--resume", "--width-multiplier", "0.75", "-o", tmp_path / "narrow")


# How a file differs from one that works: its end replaces `make`; and what the line says.
BAD = {
    "nothing": ("", r"no function make in net.py; it has none"),
    "other": ("def build():\n    pass", r"it has build"),
    "syntax": ("def make(:\n    pass", r"line \d+ is no Python \(.*\): def make\(:"),
    "import": (
        "import my_layers\ndef make(channels): ...",
        r"net.py:\d+ \(import my_layers\) imports my_layers.*one file",
    ),
    "raises": (
        "def make(channels):\n    return [][channels]",
        r"net.py:\d+ \(return \[\]\[channels\]\) fails: IndexError",
    ),
    "exits": ("raise SystemExit(3)", r"net.py:\d+ .* fails: SystemExit: 3"),
    "asks": ("def make(channels, depth):\n    pass", r"asks for depth; a network is made from \(channels"),
    "none": ("def make():\n    nn.ReLU()", r"returns NoneType, not a torch module"),
    "class": ("def make():\n    return nn.ReLU", r"returns the class ReLU, not a torch module"),
    "layer": ("def make(c):\n    return nn.Sequential(nn.Conv2d(c, 4, 3), nn.GELU())", r"asks for c; a network"),
    "outside": (
        "def make(channels):\n    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.GELU())",
        r"GELU \(the layer 1\) is outside the layer set: use SiLU or Hardswish",
    ),
    "maps": (
        "def make(channels):\n    return nn.Sequential(nn.Conv2d(channels, 4, 3))",
        r"ends in \[4, 26, 26\].*global pool",
    ),
    "vanishes": (
        "def make(channels):\n    return nn.Sequential(nn.Conv2d(channels, 4, 30), nn.Flatten())",
        r"28 pixels vanish at the layer 0; use at least 30",
    ),
    "channels": (
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())",
        r"the layer 0 reads 3 channels, images have 1; .*--channels 3",
    ),
    "empty": ("def make():\n    return nn.Flatten()", r"has no convolution or linear layer"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_makes_no_network(case, tmp_path, cli_here):
    ending, message = BAD[case]
    (tmp_path / "net.py").write_text(f"import torch\nfrom torch import nn\n{textwrap.dedent(ending)}\n")
    done = cli_here("train", *QUICK, "--backbone", f"{tmp_path / 'net.py'}:make", "-o", tmp_path / "run", code=2)
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "backbone, message",
    [
        ("missing.py:make", "missing.py does not exist"),
        ("folder.py:make", "folder.py is no file"),
        ("binary.py:make", "binary.py is no Python file"),
        ("net.py", "unknown backbone 'net.py'; choose one of conv4, resnet12"),
        ("conv5", "or a file's FILE.py:FUNCTION"),
        ("net.py:fixed", "--width-multiplier 0.5: net.py:fixed takes no width_multiplier"),
        ("net.py:missing", "no function missing in net.py; it has make, fixed"),
    ],
)
def test_a_backbone_that_names_no_function(backbone, message, net, tmp_path, cli_here):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    options = ("--backbone", backbone, "--width-multiplier", "0.5", "-o", "run")
    assert message in cli_here("train", *QUICK, *options, cwd=tmp_path, code=2).stderr
    assert not (tmp_path / "run").exists()


def test_what_the_file_prints_is_no_result(tmp_path, cli_here):
    (tmp_path / "net.py").write_text(NET + "\nprint('hello')\n")
    options = ("--iterations", "0", "--backbone", f"{tmp_path / 'net.py'}:make", "-o", tmp_path / "run")
    assert json.loads(cli_here("train", *QUICK, *options, "--json").stdout)["run"]


def test_a_network_that_looks_at_its_values_while_it_is_made(tmp_path, cli_here):
    """It cannot be made without values; what it draws changes no weight of the run."""
    looks = NET.replace("    return nn.Seq", "    assert torch.rand(3).sum().item() < 4\n    return nn.Seq")
    runs = []
    for number, source in enumerate((NET, looks)):
        (tmp_path / "net.py").write_text(source)
        runs.append(tmp_path / str(number))
        cli_here("train", *QUICK, "--backbone", f"{tmp_path / 'net.py'}:make", "-o", runs[-1])
    assert looks != NET and len({(run / "weights.safetensors").read_bytes() for run in runs}) == 1
