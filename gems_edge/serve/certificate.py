"""A certificate that this machine makes for itself: phones give their cameras to https alone."""

import ipaddress
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gems_edge.errors import MachineError, UserError
from gems_edge.files import read_plain, write_atomic
from gems_edge.serve.addresses import own_names, own_numbers

_DAYS = 825  # the longest that phones take
_MOST_BYTES = 100_000


def certificate_for(state: Path, host: str) -> Path:
    """The certificate and its key, in one file beside the state: made at the first start and when it has ended.

    Phones that were told to trust it do so after a restart. Raises UserError where openssl is not installed, and for a
    file that holds no certificate with its key.
    """
    file = state.with_name(f"{state.name}.pem")
    if not shutil.which("openssl"):
        raise UserError("--tls makes its certificate with openssl, which is not installed here; apt install openssl")
    if not _is_valid(file):
        write_atomic(file, _made(dict.fromkeys((host, *own_names(), *own_numbers(), "127.0.0.1"))), rights=0o600)
    return file


def _is_valid(file: Path) -> bool:
    """Whether it is there and lasts; UserError for what this machine has not made."""
    try:
        read_plain(file, _MOST_BYTES)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
    except FileNotFoundError:
        return False
    except ssl.SSLError:
        raise UserError(f"{file} holds no certificate with its key; remove it, and a new one is made") from None
    return _openssl("x509", "-checkend", "86400", "-noout", "-in", str(file)).returncode == 0


def _made(names: Sequence[str] | dict[str, None]) -> bytes:
    """A key and a certificate for these names and numbers, PEM."""
    alternatives = ",".join(f"{_kind(name)}:{name}" for name in names if _kind(name))
    with tempfile.TemporaryDirectory(prefix="gems-edge-") as place:
        key, certificate = Path(place, "key"), Path(place, "certificate")
        done = _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(_DAYS),
            "-subj", "/CN=gems-edge", "-addext", f"subjectAltName={alternatives}",
            "-addext", "extendedKeyUsage=serverAuth", "-keyout", str(key), "-out", str(certificate),
        )  # fmt: skip
        if done.returncode:
            raise MachineError(f"openssl made no certificate: {done.stderr.strip().splitlines()[-1:]}")
        return key.read_bytes() + certificate.read_bytes()


def _kind(name: str) -> str:
    """Of a name in a certificate; "" for what stands for all addresses, and for what is no name."""
    try:
        return "" if ipaddress.ip_address(name).is_unspecified else "IP"
    except ValueError:
        return "DNS" if name.isascii() and name.replace("-", "").replace(".", "").isalnum() else ""


def _openssl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
