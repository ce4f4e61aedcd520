"""`gems-edge verify --json` for tests, and damage for it to find."""

import json


def verify(cli_here, path, code=0):
    """Part → whether it is whole, and what can be saved."""
    document = json.loads(cli_here("verify", path, "--json", code=code).stdout)
    parts = {part["name"]: part["whole"] for part in document["parts"]}
    assert document["whole"] == all(parts.values()) == (code == 0)
    return parts, document["rescue"]


def flip(file, position=-5):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
