"""Known vulnerabilities in what requirements/*.txt lock: pip-audit over a list of advisories in the repository.

  python tools/audit.py                    with the list, on a machine without a network too (`make audit`, CI)
  python tools/audit.py --live             with OSV's service itself
  python tools/audit.py --refresh all.zip  the list anew, from OSV's export of all advisories for PyPI

The list is in OSV's form, of the locked packages alone. pip-audit is given it by a server on loopback that answers as
OSV's does, since it reads no files.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
ADVISORIES = ROOT / "requirements" / "advisories.json"
Advisory = dict[str, Any]


def locked(path: Path) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a lock file, NAME==VERSION, each with the SHA-256 of every file that may be installed."""
    found: list[tuple[Requirement, list[str]]] = []
    for line in path.read_text().splitlines():
        text = line.removesuffix("\\").strip()
        if text.startswith("--hash="):
            found[-1][1].append(text.removeprefix("--hash=sha256:"))
        elif text and not text.startswith("#"):
            found.append((Requirement(text), []))
    return found


def affects(advisory: Advisory, name: str, version: str) -> bool:
    """Whether this version of a package of PyPI is affected, by https://ossf.github.io/osv-schema/#evaluation."""
    parts = [part for part in advisory.get("affected", ()) if part["package"]["ecosystem"] == "PyPI"]
    return not advisory.get("withdrawn") and any(
        version in part.get("versions", ()) or any(_within(item, Version(version)) for item in part.get("ranges", ()))
        for part in parts
        if canonicalize_name(part["package"]["name"]) == canonicalize_name(name)
    )


def _within(ranges: dict[str, Any], version: Version) -> bool:
    if ranges["type"] != "ECOSYSTEM":
        return False
    inside = False
    events = [(kind, value) for event in ranges["events"] for kind, value in event.items()]
    for kind, value in sorted(events, key=lambda event: _number(event[1])):
        if kind == "introduced" and version >= _number(value):
            inside = True
        elif kind == "fixed" and version >= _number(value) or kind == "last_affected" and version > _number(value):
            inside = False
    return inside


def _number(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def refreshed(export: Path) -> list[Advisory]:
    """The advisories of OSV's export that name a locked package, of which the essential."""
    names = {canonicalize_name(item.name) for lock in LOCKS for item, _ in locked(lock)}
    kept = ("id", "aliases", "summary", "published", "modified", "withdrawn")
    advisories = []
    with zipfile.ZipFile(export) as archive:
        for entry in sorted(archive.namelist()):
            full = json.loads(archive.read(entry))
            parts = [
                {"package": part["package"], "ranges": part.get("ranges", []), "versions": part.get("versions", [])}
                for part in full.get("affected", ())
                if part.get("package", {}).get("ecosystem") == "PyPI"
                and canonicalize_name(part["package"]["name"]) in names
            ]
            if parts:
                advisories.append({name: full[name] for name in kept if name in full} | {"affected": parts})
    return advisories


def serve(advisories: list[Advisory]) -> HTTPServer:
    """OSV's /v1/query over these advisories, on a free port of loopback."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = query["package"]["name"], query["version"]
            body = json.dumps({"vulns": [item for item in advisories if affects(item, name, version)]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def audit(advisories: list[Advisory] | None, locks: list[Path]) -> int:
    """pip-audit's exit code, 0 if nothing is known, over the list or (None) OSV's service."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--disable-pip", "--require-hashes"]
    command += ["--strict", "--vulnerability-service=osv", *(f"--requirement={lock}" for lock in locks)]
    if advisories is not None:
        command.append(f"--osv-url=http://127.0.0.1:{serve(advisories).server_port}/v1/query")
    return subprocess.run(command, env=os.environ | {"NO_PROXY": "127.0.0.1"}).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--refresh", type=Path, metavar="ZIP")
    options = parser.parse_args()
    if options.refresh:
        ADVISORIES.write_text(json.dumps(refreshed(options.refresh), indent=1, ensure_ascii=False) + "\n")
    sys.exit(audit(None if options.live else json.loads(ADVISORIES.read_text()), LOCKS))


if __name__ == "__main__":
    main()
