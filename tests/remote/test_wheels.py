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
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    archive = zipfile.ZipFile(build_own_wheel(tmp_path))
    packed = {name.rpartition("/")[0].replace("/", ".") for name in archive.namelist() if name.endswith("/__init__.py")}
    assert packed == set(declared["packages"])
    for package, patterns in declared["package-data"].items():
        folder = ROOT / declared["package-dir"].get(package, package.replace(".", "/"))
        for file in (file for pattern in patterns for file in folder.glob(pattern)):
            assert archive.read(f"{package.replace('.', '/')}/{file.relative_to(folder)}") == file.read_bytes()
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
