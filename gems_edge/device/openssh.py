"""Signatures in OpenSSH's format (sshsig), made and checked by the system's ssh-keygen.

It is there wherever a board is reached by ssh, has no package's size, and knows agents, keys on tokens, validity and
revocation. It is called without a shell and without a terminal: it asks nobody for a passphrase.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gems_edge.errors import UserError

NAMESPACE = "gems-edge-bundle"  # what is signed for another purpose is no signature of a bundle
MOST_BYTES = 16 << 10  # of a signature: fifty times an ed25519 one, and what a pipe holds
_SECONDS = 60.0  # a key on a token waits for a finger
_GOOD = re.compile(r'^Good "[^"]*" signature with (\S+) key (SHA256:\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Signer:
    """The key of a signature: its kind, as ssh-keygen names it ("ED25519"), and its fingerprint ("SHA256:…")."""

    kind: str
    fingerprint: str


class BadSignature(Exception):
    """No good signature; the message is the reason, in ssh-keygen's words where it gave one."""


def sign(content: bytes, key: Path, namespace: str = NAMESPACE) -> bytes:
    """The signature of `content` by the private key in the file `key`, or by the agent that holds it.

    Raises UserError for a key that cannot be used without asking, and for one that is not ed25519.
    """
    done = _ssh_keygen(["-Y", "sign", "-n", namespace, "-f", str(key)], content)
    if done.returncode:
        raise UserError(f"{key} cannot sign ({_why_not(done)})")
    signer = signer_of(content, done.stdout, namespace)
    if not is_ed25519(signer):
        raise UserError(f"{key} is a key of kind {signer.kind}; make one with ssh-keygen -t ed25519")
    return done.stdout


def signer_of(content: bytes, signature: bytes, namespace: str = NAMESPACE) -> Signer:
    """Whose signature of `content` it is, be that trusted or not. Raises BadSignature if it is none."""
    with _given(signature) as (file, descriptors):
        done = _ssh_keygen(["-Y", "check-novalidate", "-n", namespace, "-s", file], content, descriptors)
    good = _GOOD.search(done.stdout.decode(errors="replace"))
    if done.returncode or good is None:
        raise BadSignature(_said(done))
    return Signer(*good.groups())


def is_ed25519(signer: Signer) -> bool:
    """Also of a token's key (ED25519-SK)."""
    return signer.kind.startswith("ED25519")


def patterns_of(signature: bytes, allowed: Path) -> list[str]:
    """The names, or patterns of names, that the file `allowed` (allowed_signers of OpenSSH) has for the signature's
    key. Raises BadSignature if there are none."""
    with _given(signature) as (file, descriptors):
        done = _ssh_keygen(["-Y", "find-principals", "-f", str(allowed), "-s", file], b"", descriptors)
    patterns = [line for line in done.stdout.decode(errors="replace").splitlines() if not line.startswith("!")]
    if done.returncode or not patterns:
        raise BadSignature(_said(done))
    return patterns


def check(content: bytes, signature: bytes, allowed: Path, name: str, revoked: Path | None = None) -> None:
    """Raises BadSignature unless `signature` is one of `content` that `allowed` allows `name`, by no key of `revoked`
    (public keys, one a line, or OpenSSH's KRL)."""
    more = ["-r", str(revoked)] if revoked else []
    with _given(signature) as (file, descriptors):
        arguments = ["-Y", "verify", "-n", NAMESPACE, "-f", str(allowed), "-I", name, "-s", file, *more]
        done = _ssh_keygen(arguments, content, descriptors)
    if done.returncode:
        raise BadSignature(_said(done))


@contextmanager
def _given(signature: bytes) -> Iterator[tuple[str, tuple[int]]]:
    """The signature as a file that only a child process sees: its name there, and what that has to inherit."""
    if len(signature) > MOST_BYTES:
        raise BadSignature(f"it has more than {MOST_BYTES:,} bytes")
    reader, writer = os.pipe()
    try:
        os.write(writer, signature)
        os.close(writer)
        yield f"/dev/fd/{reader}", (reader,)
    finally:
        os.close(reader)


def _ssh_keygen(
    arguments: Sequence[str], content: bytes, descriptors: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise UserError("signatures need ssh-keygen, which is not installed; install openssh-client")
    environment = os.environ | {"LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    try:
        return subprocess.run(
            [program, *arguments],
            input=content,
            capture_output=True,
            pass_fds=descriptors,
            env=environment,
            timeout=_SECONDS,
            start_new_session=True,  # without a terminal it cannot ask
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"ssh-keygen did not answer within {_SECONDS:.0f} seconds; try again") from None


def _why_not(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode(errors="replace")
    if "passphrase" in said:
        return "it has a passphrase, which is not asked for; give it to an agent with ssh-add, and name it again"
    if "too open" in said:
        return "others may read it; change that with chmod 600"
    return _said(done)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What ssh-keygen said of its failure, in one line."""
    lines = done.stderr.decode(errors="replace").splitlines()
    return "; ".join(line.strip() for line in lines if line.strip()) or "ssh-keygen gives no reason"
