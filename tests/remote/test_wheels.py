import base64
import csv
import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

from gems_edge.remote.wheels import build_own_wheel

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_what_the_project_declares(tmp_path):
    """Every module and data file once, those of the linked folders too."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    archive = zipfile.ZipFile(build_own_wheel(tmp_path))
    names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    tops = {
        "gems_edge": ROOT / "gems_edge",
        **{f"gems_edge/{name}": ROOT / name for name in ("export", "device_profiles")},
    }
    modules = {f"{top}/{f.relative_to(folder)}": f for top, folder in tops.items() for f in folder.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules.keys()
    data = {
        f"{package.replace('.', '/')}/{file.relative_to(folder)}": file
        for package, patterns in declared["package-data"].items()
        for folder in [ROOT / package.replace(".", "/")]
        for pattern in patterns
        for file in folder.glob(pattern)
    }
    assert "gems_edge/device_profiles/rpi-4b.toml" in data and "gems_edge/data/splits/omniglot.json" in data
    for name, file in (modules | data).items():
        assert archive.read(name) == file.read_bytes()
    [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    assert b"Requires-Dist: onnxruntime" in archive.read(metadata)


def test_the_record_lists_every_file_with_its_hash(tmp_path):
    archive = zipfile.ZipFile(build_own_wheel(tmp_path))
    [record] = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
    rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
    assert {row[0] for row in rows} == set(archive.namelist())
    for name, digest, size in (row for row in rows if row[0] != record):
        content = archive.read(name)
        assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert int(size) == len(content)


def test_the_same_files_give_the_same_wheel(tmp_path):
    (tmp_path / "again").mkdir()
    assert build_own_wheel(tmp_path).read_bytes() == build_own_wheel(tmp_path / "again").read_bytes()
