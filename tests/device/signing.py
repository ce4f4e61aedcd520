"""Keys and signed bundles, made by the system's own ssh-keygen: what others make is what boards have to read."""

import subprocess
from pathlib import Path

import handmade as hm

NAMESPACE = "gems-edge-bundle"


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    ssh_keygen("-q", "-t", kind, "-N", passphrase, "-C", "somebody", "-f", path)
    return path


def trust_line(key: Path, products: str = "*", options: str = "") -> str:
    """A line of a trust file."""
    kind, public, _ = key.with_name(key.name + ".pub").read_text().split(maxsplit=2)
    return f"{products} {options} {kind} {public}\n".replace("  ", " ")


def sign(bundle: Path, key: Path, namespace: str = NAMESPACE) -> None:
    """bundle/manifest.json.sig, as anybody would make it."""
    (bundle / "manifest.json.sig").unlink(missing_ok=True)
    ssh_keygen("-Y", "sign", "-n", namespace, "-f", key, bundle / "manifest.json")


def write_signed(path: Path, key: Path, product: str = "plates", release: int = 1, **options) -> Path:
    hm.write_bundle(path, **options)
    hm.edit_manifest(path, lambda manifest: manifest.update(product={"id": product, "release": release}))
    sign(path, key)
    return path


def ssh_keygen(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["ssh-keygen", *map(str, arguments)], check=True, capture_output=True, **options)
