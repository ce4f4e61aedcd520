"""tools/gpu_campaign.py on a CPU: pieces run once, are resumed, fail in one line, and what waits is said."""

import fcntl
import json

import gpu_campaign as module
import gpu_equality
import pytest
from click.testing import CliRunner

from gems_edge.reproduce.published import page, read_published


def piece(name: str, code: str, **more) -> module.Piece:
    return module.Piece(name, f"about {name}", ("-c", code), **more)


def statuses(state: dict) -> dict[str, str]:
    return {name: entry["status"] for name, entry in state["pieces"].items()}


def test_pieces_run_once_and_go_on(tmp_path):
    """One needs a second call, one is done, one fails at first; a call without time starts none."""
    written = f"open({str(tmp_path / 'quick.json')!r}, 'w').write('{{\"rows\": []}}')"
    long = piece("long", "import time; time.sleep(600)", resumes=("-c", ""), made="begun")
    wanted = [long, piece("quick", written, result="quick.json"), piece("broken", "raise SystemExit('no kernel')")]
    state = module.read_state(tmp_path, "cpu")
    assert module.campaign(tmp_path, wanted, state, 0.0)
    assert set(statuses(state).values()) == {module.WAITING}
    assert module.campaign(tmp_path, wanted[:1], state, 1.0, 0.5) and statuses(state)["long"] == module.BEGUN
    (tmp_path / "begun").touch()  # as a training leaves its config
    assert not module.campaign(tmp_path, wanted, module.read_state(tmp_path, "cpu"), 600.0)
    state = module.read_state(tmp_path, "cpu")
    assert statuses(state) == {"long": module.DONE, "quick": module.DONE, "broken": module.FAILED}
    assert state["pieces"]["broken"]["reason"] == "no kernel" and state["pieces"]["quick"]["result"] == {"rows": []}
    (tmp_path / "quick.json").unlink()
    assert module.campaign(tmp_path, [*wanted[:2], piece("broken", "")], state, 600.0)
    assert set(statuses(module.read_state(tmp_path, "cpu")).values()) == {module.DONE}
    assert not (tmp_path / "quick.json").exists()  # it did not run again


def test_one_campaign_at_a_time(tmp_path):
    with open(tmp_path / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = CliRunner().invoke(module.main, [str(tmp_path), "--compute", "cpu"])
    assert result.exit_code == 2 and "another campaign is at work" in result.output
    assert not (tmp_path / module.STATE).exists()


def test_equality_on_the_cpu(tmp_path, environment, monkeypatch):
    monkeypatch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
    monkeypatch.setattr(gpu_equality, "NETWORKS", gpu_equality.NETWORKS[:1])
    result = CliRunner().invoke(gpu_equality.main, [str(tmp_path / "found.json"), "--compute", "cpu"])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    errors = {(row["method"], row["precision"]): row["error"] for row in rows}
    for method in gpu_equality.METHODS:
        assert errors[method, "fp64"] < 1e-12 and 0 < errors[method, "fp32"] < 1e-4
        assert errors[method, "bf16"] > 10 * errors[method, "fp32"]


def test_what_waits_stands_on_the_page(tmp_path, monkeypatch):
    result = CliRunner().invoke(module.main, [str(tmp_path / "none"), "--status", "--publish", str(tmp_path)])
    assert result.exit_code == 0 and result.output.count(module.WAITING) == 6
    stored = read_published(tmp_path / "gpu.json")
    assert "Still waiting for a GPU: equality, one-process group, conv4-84" in " ".join(page(stored).split())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "content, arguments, words",
    [
        ('{"compute": "cpu", "pieces": {}}', [], "is of --compute cpu; choose another directory for cuda"),
        ("[]", [], "is no campaign's"),
        ("", ["--only", "nothing"], "--only nothing: choose from equality"),
    ],
)
def test_bad_input(tmp_path, content, arguments, words):
    if content:
        (tmp_path / module.STATE).write_text(content)
    result = CliRunner().invoke(module.main, [str(tmp_path), *arguments])
    assert result.exit_code == 2 and words in result.output, result.output
