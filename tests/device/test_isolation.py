"""The board's side loads nothing of the workstation, writes nothing but its state, and sends nothing."""

import os
import subprocess
import sys
from pathlib import Path

import handmade as hm

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from gems_edge.cli.main import main
for line in ("adapt h.gems --support photos -o s.state", "predict h.gems --state s.state photos/kind_0"):
    sys.argv = ["gems-edge", *line.split()]
    main()
import gems_edge.device, os
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "matplotlib", "rich", "jinja2"}
forbidden = loaded & heavy
assert not forbidden, forbidden
for number in os.listdir("/proc/self/fd"):
    if os.path.lexists(f"/proc/self/fd/{number}"):
        assert not os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
"""


def test_adapt_and_predict_leave_nothing_behind(tmp_path):
    (tmp_path / "work").mkdir()
    hm.write_bundle(tmp_path / "work/h.gems")
    hm.write_pictures(tmp_path / "work/photos", *hm.pictures(3, 2))
    (tmp_path / "work/photos/kind 0").rename(tmp_path / "work/photos/kind_0")
    for name in ("home", "cache", "tmp"):
        (tmp_path / name).mkdir()
    before = files(tmp_path)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "onnxruntime" not in done.stderr
    made = files(tmp_path) - before
    photos = {name for name in made if name.startswith("work/s.state/photos/")}
    assert made - photos == {"work/s.state/a.safetensors"} and len(photos) == 6


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def test_import_of_the_device_room_alone():
    code = (
        "import sys, gems_edge.device; assert not {'torch', 'onnx', 'matplotlib', 'rich', 'click'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
