"""gems-edge devices, through the real command."""

import json
import subprocess
import sys
from importlib import resources

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gems_edge", "devices", *map(str, arguments)], capture_output=True, text=True
    )


def test_list():
    done = run("list")
    assert done.returncode == 0 and "rpi-4b" in done.stdout and "rpi-zero-2w" in done.stdout
    document = json.loads(run("list", "--json").stdout)
    assert {"rpi-4b", "rpi-zero-2w"} <= {entry["id"] for entry in document}


def test_show():
    done = run("show", "rpi-zero-2w")
    assert done.returncode == 0 and "Cortex-A53" in done.stdout and "sbc-bench" in done.stdout
    facts = json.loads(run("show", "rpi-zero-2w", "--json").stdout)["facts"]
    assert facts["cores"]["value"] == 4
    assert all(fact["source"] for fact in facts.values())


def test_check():
    done = run("check")
    assert done.returncode == 0 and done.stdout.count("in range") >= 2
    assert all(entry["ok"] for entry in json.loads(run("check", "--json").stdout))


def test_check_of_files(tmp_path):
    text = (resources.files("gems_edge.device_profiles") / "rpi-4b.toml").read_text()
    good, bad = tmp_path / "mine.toml", tmp_path / "bad.toml"
    good.write_text(text.replace('id = "rpi-4b"', 'id = "mine"'))
    bad.write_text(text.replace('id = "rpi-4b"', 'id = "bad"').replace("value = 1.8", "value = 1800.0"))
    assert run("check", good).returncode == 0
    done = run("check", good, bad)
    assert done.returncode == 2 and "clock = 1800.0 is outside" in done.stderr and done.stderr.count("\n") == 1


def test_memory_only_boards_say_so():
    done = run("show", "stm32h743")
    assert done.returncode == 0 and "no onnxruntime here" in done.stdout and "1.0 MiB" in done.stdout
    assert "memory only" in run("list").stdout


@pytest.fixture
def network(tmp_path):
    """A file as a user would bring: a dynamic batch, and an op that nobody knows."""
    import onnx
    from published_networks import build

    def write(name="net.onnx", stranger=False):
        model = build("MobileNetV3-Small-1.0", 96)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        if stranger:
            node = next(node for node in model.graph.node if node.op_type == "Gelu")  # in a hardswish's place
            node.op_type, node.domain = "Frobnicate", "com.example"
            model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def test_predict_a_users_graph(network):
    done = run("predict", network(), "--device", "rpi-4b,rpi-zero-2w", "--dims", "batch=1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    for board in document["devices"].values():
        low, high = board["interval"]
        assert 0 < low < board["ms"] < high and board["tag"] == "predicted" and board["source"]
    assert document["devices"]["rpi-zero-2w"]["ms"] > document["devices"]["rpi-4b"]["ms"]
    assert document["cost"]["macs"] > 5_000_000 and document["unknown"] == {} and document["precision"] == "fp32"


def test_unknown_ops_are_counted_not_refused(network):
    plain, odd = (
        json.loads(run("predict", network(name, stranger), "--device", "rpi-4b", "--dims", "batch=1", "--json").stdout)
        for name, stranger in (("plain.onnx", False), ("odd.onnx", True))
    )
    assert odd["unknown"] == {"com.example.Frobnicate": 1}
    assert "1 ops unknown" in odd["devices"]["rpi-4b"]["source"]
    assert odd["devices"]["rpi-4b"]["interval"][1] > plain["devices"]["rpi-4b"]["interval"][1]


@pytest.mark.parametrize(
    "options, words",
    [
        (("--device", "rpi-4b"), "'batch'"),
        (("--device", "rpi-4b", "--dims", "batch=none"), "NAME=N"),
        (("--device", "rpi-9", "--dims", "batch=1"), "unknown device 'rpi-9'"),
        (("--device", "stm32h743", "--dims", "batch=1"), "no onnxruntime here"),
        (("--device", "rpi-4b", "--dims", "batch=1", "--threads", "9"), "4 cores"),
        (("--device", "absent.toml", "--dims", "batch=1"), "absent.toml does not exist"),
    ],
)
def test_bad_predictions(network, options, words):
    done = run("predict", network(), *options)
    assert done.returncode == 2 and done.stdout == "" and words in done.stderr and done.stderr.count("\n") == 1


def test_predict_needs_an_onnx_file(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x08no")
    for name in ("x.onnx", "absent.onnx"):
        done = run("predict", tmp_path / name, "--device", "rpi-4b")
        assert done.returncode == 2 and name in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow(15)
def test_calibrate_here(tmp_path, cli_here, network, monkeypatch):
    """The real measurements, shortened: a profile that check takes and predict uses."""
    from gems_edge.calibrate import fit as calibrate

    monkeypatch.setattr(calibrate, "SECONDS", 0.01)
    profile = tmp_path / "my-board.toml"
    document = json.loads(cli_here("devices", "calibrate", "-o", profile, "--json").stdout)
    assert document["id"] == "my-board" and document["latency"]["within"] > 1
    assert len(document["checks"]) >= 5 and all(check["measured_ms"] > 0 for check in document["checks"])
    cli_here("devices", "check", profile)
    shown = cli_here("devices", "predict", network(), "--device", profile, "--dims", "batch=1", "--json").stdout
    assert "measured" in json.loads(shown)["devices"]["my-board"]["source"]
    assert [entry.name for entry in tmp_path.glob("*.toml")] == ["my-board.toml"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("-o", "profile.txt"), ".toml"),
        (("-o", "nowhere/x.toml"), "nowhere"),
        (("-o", "a.toml", "--id", "b"), "b.toml"),
    ],
)
def test_calibrate_refuses_before_it_measures(arguments, words):
    done = run("calibrate", *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("show", "rpi-9"), ("check", "absent.toml"), ("show",), ("check", ".")])
def test_bad_input(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gems-edge: ") and done.stderr.count("\n") == 1
