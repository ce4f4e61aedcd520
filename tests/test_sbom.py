"""tools/sbom.py: the document is CycloneDX, and says what requirements/board.txt locks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cyclonedx")
import audit
import sbom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    output = tmp_path_factory.mktemp("sbom") / "new" / "board.json"
    subprocess.run([sys.executable, Path(sbom.__file__), "-o", output], check=True, capture_output=True)
    return output.read_text()


def test_it_is_cyclonedx(text):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_says_what_is_locked(text):
    components = json.loads(text)["components"]
    found = {
        (item["name"], item["version"], *sorted(part["content"] for part in item["hashes"])) for item in components
    }
    locked = audit.locked(sbom.LOCK)
    assert found == {(item.name, next(iter(item.specifier)).version, *sorted(hashes)) for item, hashes in locked}


def test_licences_and_needs(text):
    document = json.loads(text)
    licences = {item["name"]: item["licenses"] for item in document["components"] if "licenses" in item}
    assert licences["pillow"] == [{"license": {"id": "MIT-CMU"}}] and licences.keys() >= {"click", "onnxruntime"}
    needs = {
        entry["ref"]: {ref.partition("==")[0] for ref in entry.get("dependsOn", ())}
        for entry in document["dependencies"]
    }
    assert needs["gems-edge"] == {"numpy", "onnxruntime", "pillow", "click", "safetensors"}
    [runtime] = [needs[ref] for ref in needs if ref.startswith("onnxruntime==")]
    assert runtime >= {"numpy", "protobuf"} and needs.keys() >= {item["bom-ref"] for item in document["components"]}


def test_the_same_commit_gives_the_same_document(text, tmp_path):
    subprocess.run([sys.executable, sbom.__file__, "-o", tmp_path / "again.json"], check=True, capture_output=True)
    assert (tmp_path / "again.json").read_text() == text
