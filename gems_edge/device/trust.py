"""Whose bundles a board opens: those that a key of its trust file signed, for that product, and no older release.

A trust file is OpenSSH's allowed_signers: a line for each key, with the products that it may sign in the place of
names. Beside FILE may lie FILE.revoked, keys that are trusted no more, and FILE.releases, the highest release of each
product that was opened.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gems_edge.device import openssh
from gems_edge.device.manifest import Product
from gems_edge.device.openssh import BadSignature, Signer
from gems_edge.errors import MachineError, UserError
from gems_edge.files import locked, opened, parse_json, read_plain, sha256_bytes, write_atomic
from gems_edge.places import check_room

TRUST_VARIABLE, ALLOW_OLDER_VARIABLE = "GEMS_EDGE_TRUST", "GEMS_EDGE_ALLOW_OLDER"
SIGNATURE_FILE = "manifest.json.sig"  # as `ssh-keygen -Y sign manifest.json` names it
_MOST_RELEASES_BYTES = 1 << 20
_PRINTABLE = re.compile(r"[^ -~]")


@dataclass(frozen=True)
class Trust:
    """`file` None: anybody's bundles are opened, and no signature is looked at."""

    file: Path | None = None
    allow_older: bool = False  # a release below the highest that was opened
    remember: bool = True  # which release is opened; False: it may yet be turned away

    @classmethod
    def from_environment(cls) -> "Trust":
        """As GEMS_EDGE_TRUST names the file, if it does; GEMS_EDGE_ALLOW_OLDER=1 opens older releases."""
        file = os.environ.get(TRUST_VARIABLE)
        return cls(Path(file) if file else None, os.environ.get(ALLOW_OLDER_VARIABLE, "") not in ("", "0"))


ANYBODY = Trust()


def read_signature(bundle: Path) -> bytes | None:
    """The signature of the bundle's manifest, as it lies there; None without one."""
    try:
        return read_plain(bundle / SIGNATURE_FILE, openssh.MOST_BYTES)
    except FileNotFoundError:
        return None


def check_maker(bundle: Path, manifest: bytes, signature: bytes | None, trusted: Path) -> None:
    """UserError unless a key that the file `trusted` holds signed these bytes of a manifest, which nobody has parsed
    yet: for which products is asked afterwards, by check_product."""
    _check_readable(trusted)
    if signature is None:
        raise UserError(
            f"{bundle} is not signed, and {trusted} says whose bundles are opened here; get a signed one (gems-edge "
            "export --sign)"
        )
    signer = signer_of(bundle, manifest, signature)
    if not openssh.is_ed25519(signer):
        raise UserError(f"{bundle} is signed with a key of kind {signer.kind}, and not with an ed25519 key")
    try:
        pattern = openssh.patterns_of(signature, trusted)[0]
        openssh.check(manifest, signature, trusted, pattern)
    except BadSignature as error:
        raise _foreign(bundle, signer, trusted, error) from None
    if revoked := _revoked(trusted):
        try:
            openssh.check(manifest, signature, trusted, pattern, revoked)
        except BadSignature as error:
            why = _shown(error)
            raise UserError(
                f"{bundle} is signed by {signer.fingerprint}, which {revoked} revokes ({why}); get a newer bundle"
            ) from None


def check_product(
    bundle: Path, manifest: bytes, signature: bytes | None, product: Product | None, trusted: Path
) -> None:
    """UserError unless the signature's key may sign this product."""
    if product is None or signature is None:
        raise UserError(f"{bundle} is signed, but its manifest names no product and release; export it again")
    try:
        openssh.check(manifest, signature, trusted, product.id, _revoked(trusted))
    except BadSignature:
        signer = signer_of(bundle, manifest, signature)
        raise UserError(
            f"{bundle} is product {product.id!r}, which {trusted} does not let {signer.fingerprint} sign; get the "
            "bundle of this board's product"
        ) from None


def check_release(bundle: Path, product: Product, trusted: Path) -> None:
    """UserError for a release below the highest that was opened here."""
    highest = highest_releases(trusted).get(product.id, 0)
    if product.release < highest:
        raise UserError(
            f"{bundle} is release {product.release} of {product.id!r}, and release {highest} was opened here; get a "
            "newer one, or give --allow-older"
        )


def remember_release(product: Product, trusted: Path) -> None:
    """Make the product's release the highest that was opened, if it is.

    Raises UserError where that cannot be written: what is not remembered would let an older release in.
    """
    if highest_releases(trusted).get(product.id, -1) >= product.release:
        return
    _note_release(product, trusted, lambda highest: max(product.release, highest))


def _note_release(product: Product, trusted: Path, change: Callable[[int], int]) -> None:
    """Write what `change` makes of the highest release that was opened."""
    kept = _releases_file(trusted)
    try:
        with locked(kept.parent):
            releases = highest_releases(trusted)
            releases[product.id] = change(releases.get(product.id, 0))
            write_atomic(kept, _encode(releases))
    except (OSError, MachineError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{kept} cannot be written ({reason}), so release {product.release} of {product.id!r} would not be "
            "remembered; open the bundle once as somebody who may write there"
        ) from None


def check_can_remember(product: Product, trusted: Path) -> None:
    """Raises as places.check_room where remember_release could not write."""
    if highest_releases(trusted).get(product.id, -1) < product.release:
        check_room(trusted.parent)


def note_release(product: Product | None, trust: Trust) -> None:
    """Remember the release that a board goes over to; with `allow_older` it is the highest from now on, though a higher
    one was opened. Raises as remember_release."""
    if trust.file is None or product is None:
        return
    if trust.allow_older:
        _note_release(product, trust.file, lambda highest: product.release)
    else:
        remember_release(product, trust.file)


def highest_releases(trusted: Path) -> dict[str, int]:
    """Product → the highest release that was opened here. UserError if what was remembered is damaged."""
    kept = _releases_file(trusted)
    damaged = UserError(f"{kept} is damaged; write which releases boards may not go below anew, or remove it")
    try:
        document = parse_json(read_plain(kept, _MOST_RELEASES_BYTES), str(kept))
    except FileNotFoundError:
        return {}
    except UserError:
        raise damaged from None
    releases = document.get("releases") if isinstance(document, dict) else None
    if not isinstance(releases, dict) or not all(type(release) is int for release in releases.values()):
        raise damaged
    if document.get("sha256") != _checksum(releases):
        raise damaged
    return releases


def signer_of(bundle: Path, manifest: bytes, signature: bytes) -> Signer:
    """Whose the signature is, trusted or not. UserError for one of other bytes, and for what is no signature."""
    try:
        return openssh.signer_of(manifest, signature)
    except BadSignature as error:
        raise UserError(
            f"{bundle / SIGNATURE_FILE} is not the signature of its manifest ({_shown(error)}); one of them was "
            "altered: copy the bundle again"
        ) from None


def _foreign(bundle: Path, signer: Signer, trusted: Path, error: BadSignature) -> UserError:
    """Why the key that signed is not one to trust."""
    return UserError(
        f"{bundle} is signed by {signer.fingerprint}, which {trusted} does not trust ({_shown(error)}); get the bundle "
        "from its maker, or add the key if it is theirs"
    )


def _check_readable(trusted: Path) -> None:
    if not trusted.is_file():
        what = "is no file" if trusted.exists() else "does not exist"
        raise UserError(f"the trust file {trusted} {what}; name the file that says whose bundles are opened")
    with open(trusted, "rb"):  # PermissionError names it
        pass


def _revoked(trusted: Path) -> Path | None:
    """The file of revoked keys, if there is one. UserError for what is no file: ssh-keygen would wait for a pipe."""
    file = trusted.with_name(f"{trusted.name}.revoked")
    if not os.path.lexists(file):
        return None
    try:
        opened(file).close()
    except PermissionError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); bring it back, or remove it") from None
    return file


def _releases_file(trusted: Path) -> Path:
    return trusted.with_name(f"{trusted.name}.releases")


def _encode(releases: dict[str, int]) -> str:
    return json.dumps({"releases": releases, "sha256": _checksum(releases)}, indent=1, sort_keys=True) + "\n"


def _checksum(releases: dict[str, int]) -> str:
    return sha256_bytes(json.dumps(releases, sort_keys=True).encode())


def _shown(error: BadSignature) -> str:
    return _PRINTABLE.sub("?", str(error))[:200]
