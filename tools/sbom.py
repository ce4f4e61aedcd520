"""What the board's package consists of, as a CycloneDX document (SBOM): gems-edge and all that requirements/board.txt
locks, with versions, the hashes of the files that pip may install, licences, and who needs whom.

  python tools/sbom.py [-o dist/gems-edge-board.cdx.json]     `make sbom`; needs no network

Licences and needs are those of the installed packages; of a locked version that is not installed here neither is said.
The same commit gives the same document, byte for byte.
"""

import argparse
import importlib.metadata
import json
import subprocess
import tomllib
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import audit
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gems_edge import __version__
from gems_edge.files import write_atomic

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "board.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_LICENCES = LicenseFactory()


def board_sbom(time: datetime) -> str:
    """The document of the board's package, as of `time`."""
    root = Component(
        name=PROJECT["name"],
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref=PROJECT["name"],
        description=PROJECT["description"],
        licenses=[_LICENCES.make_from_string(PROJECT["license"])],
        purl=PackageURL("pypi", name=PROJECT["name"], version=__version__),
    )
    locked = [(item, _component(item, hashes)) for item, hashes in audit.locked(LOCK)]
    bom = Bom(components=[component for _, component in locked])
    bom.metadata.component, bom.metadata.timestamp = root, time
    bom.metadata.tools.components.add(this_component())
    bom.register_dependency(root, _needed(PROJECT["dependencies"], locked))
    for item, component in locked:
        bom.register_dependency(component, _needed(_requires(item), locked))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, LOCK.read_text() + __version__ + time.isoformat())
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _component(item: Requirement, hashes: Iterable[str]) -> Component:
    version = _version(item)
    installed = _installed(item)
    markers = [Property(name="gems-edge:marker", value=str(item.marker))] if item.marker else []
    return Component(
        name=item.name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{item.name}=={version}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in hashes],
        licenses=[_licence(installed)] if installed else [],
        purl=PackageURL("pypi", name=canonicalize_name(item.name), version=version),
        properties=markers,
    )


def _licence(installed: importlib.metadata.Distribution) -> License:
    """The licence that a package states: as an SPDX expression, else as a line of text, else as its classifier."""
    about = installed.metadata
    classifiers = [text for text in about.get_all("Classifier") or () if text.startswith("License ::")]
    stated = (about["License-Expression"], about["License"], *(text.rpartition(" :: ")[2] for text in classifiers))
    return _LICENCES.make_from_string(next((text.splitlines()[0] for text in stated if text), "unknown"))


def _needed(requirements: Iterable[str], locked: list[tuple[Requirement, Component]]) -> list[Component]:
    names = {canonicalize_name(Requirement(text).name) for text in requirements}
    return [component for item, component in locked if canonicalize_name(item.name) in names]


def _requires(item: Requirement) -> list[str]:
    """What the package needs on any board; extras are not installed there."""
    installed = _installed(item)
    return [text for text in (installed.requires or ()) if "extra ==" not in text] if installed else []


def _installed(item: Requirement) -> importlib.metadata.Distribution | None:
    try:
        found = importlib.metadata.distribution(item.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.version == _version(item) else None


def _version(item: Requirement) -> str:
    [pin] = item.specifier
    return pin.version


def _commit_time() -> datetime:
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return datetime.fromtimestamp(int(done.stdout), UTC) if done.returncode == 0 else datetime.now(UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "gems-edge-board.cdx.json")
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, board_sbom(_commit_time()))
    print(output)


if __name__ == "__main__":
    main()
