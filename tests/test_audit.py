"""tools/audit.py: what is locked fits the project and has hashes, and known vulnerabilities are found."""

import importlib.util
import json
import tomllib
import zipfile
from pathlib import Path

import audit
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
needs_pip_audit = pytest.mark.skipif(importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not installed")


@pytest.mark.parametrize(
    "name, extras",
    [("board", ()), ("board-serve", ("serve", "mqtt")), ("workstation", ("train", "serve", "mqtt", "test", "lint"))],
)
def test_the_lock_fits_the_project(name, extras):
    """`make lock` after a change of pyproject.toml."""
    locked = audit.locked(ROOT / "requirements" / f"{name}.txt")
    wanted = [Requirement(text) for part in (PROJECT["dependencies"], *map(EXTRAS.get, extras)) for text in part]
    for requirement in wanted:
        found = [item for item, _ in locked if canonicalize_name(item.name) == canonicalize_name(requirement.name)]
        versions = [next(iter(item.specifier)).version for item in found]
        assert versions and all(version in requirement.specifier for version in versions), requirement
    for item, hashes in locked:
        [pin] = item.specifier
        assert pin.operator == "==" and hashes and item.url is None


def advisory(*events: dict, name: str = "pillow", **more) -> dict:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    return {"id": "X-1", "affected": [{"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges} | more]}


@pytest.mark.parametrize(
    "entry, hit",
    [
        (advisory({"introduced": "0"}, {"fixed": "2.0"}), "0.1 1.0 1.1 1.5 1.10 2.0rc1"),
        (advisory({"introduced": "1.0"}, {"last_affected": "1.5"}), "1.0 1.1 1.5"),
        (advisory({"introduced": "2.0"}, {"introduced": "1.0"}, {"fixed": "1.1"}), "1.0 2.0 3.0"),
        (advisory({"introduced": "1.10"}), "1.10 2.0rc1 2.0 3.0"),
        (advisory({"introduced": "99"}, versions=["3.0"]), "3.0"),
        (advisory({"introduced": "0"}) | {"withdrawn": "2026-01-01T00:00:00Z"}, ""),
        (advisory({"introduced": "0"}, name="other"), ""),
    ],
)
def test_versions_that_are_affected(entry, hit):
    versions = ["0.1", "1.0", "1.1", "1.5", "1.10", "2.0rc1", "2.0", "3.0"]
    assert [version for version in versions if audit.affects(entry, "Pillow", version)] == hit.split()


def test_the_list_names_no_locked_version_and_is_in_osvs_form():
    entries = json.loads(audit.ADVISORIES.read_text())
    assert entries and all(entry["id"] and entry["affected"] for entry in entries)
    for lock in audit.LOCKS:
        for item, _ in audit.locked(lock):
            [pin] = item.specifier
            assert not [entry["id"] for entry in entries if audit.affects(entry, item.name, pin.version)]


def test_the_list_is_made_anew_from_an_export(tmp_path):
    export = tmp_path / "all.zip"
    kept = advisory({"introduced": "0"}, {"fixed": "1"}) | {"details": "long", "summary": "short"}
    with zipfile.ZipFile(export, "w") as archive:
        archive.writestr("X-1.json", json.dumps(kept))
        archive.writestr("X-2.json", json.dumps(advisory({"introduced": "0"}, name="no-such-package")))
    [entry] = audit.refreshed(export)
    assert entry["summary"] == "short" and "details" not in entry and audit.affects(entry, "pillow", "0.9")


@needs_pip_audit
def test_pip_audit_goes_by_the_list(tmp_path, capfd):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"pillow==13.0.0 --hash=sha256:{'0' * 64}\n")
    assert audit.audit([advisory({"introduced": "0"}, {"fixed": "13.0.0"})], [lock]) == 0
    assert audit.audit([advisory({"introduced": "0"}, {"fixed": "13.0.1"})], [lock]) == 1
    assert "X-1" in capfd.readouterr().out
