"""export --sign, with a real key; what verifies it is the system's ssh-keygen."""

import json
import os

from signing import NAMESPACE, make_key, ssh_keygen, trust_line
from small_settings import EXPORT


def test_a_signed_export(cli_here, own_small_run, tmp_path, monkeypatch):
    key = make_key(tmp_path / "maker")
    (tmp_path / "makers").write_text(trust_line(key, "plates"))
    monkeypatch.setenv("GEMS_EDGE_TRUST", str(tmp_path / "makers"))  # what is being exported is not signed yet
    export = ("export", own_small_run, *EXPORT, "--ratio", 0, "-o", tmp_path / "out.gems", "--json")
    refused = cli_here(*export, "--sign", "none", code=2)
    assert "none cannot sign" in refused.stderr and "evaluate" not in refused.stderr
    assert "cannot be a product's name" in cli_here(*export, "--product", "../x", code=2).stderr
    document = json.loads(cli_here(*export, "--sign", key, "--product", "plates", "--release", 7).stdout)
    assert document["product"] == {"id": "plates", "release": 7}
    bundle = document["bundle"]
    with open(os.path.join(bundle, "manifest.json"), "rb") as manifest:
        ssh_keygen(
            *("-Y", "verify", "-n", NAMESPACE, "-f", tmp_path / "makers", "-I", "plates"),
            *("-s", os.path.join(bundle, "manifest.json.sig")),
            stdin=manifest,
        )
    assert json.loads(cli_here("verify", bundle, "--json").stdout)["trusted"]
