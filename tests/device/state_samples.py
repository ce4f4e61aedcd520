"""States to save, and slots written by hand."""

import hashlib
import json

import numpy as np
import safetensors.numpy

from gems_edge.device.state import State

BUNDLE = "b" * 64


def make(number=0, bundle=BUNDLE):
    tensors = {"head.weight": np.full((2, 3), number, np.float32), "norm.mean": np.arange(4, dtype=np.float32) + number}
    return State(bundle, ("a", "b"), steps=5, images=10, tensors=tensors)


def number_of(state):
    assert state.tensors["norm.mean"][0] == state.tensors["head.weight"][1, 2]
    return int(state.tensors["norm.mean"][0])


def bits(tensors):
    return {name: (value.shape, value.dtype, value.tobytes()) for name, value in tensors.items()}


def write_by_hand(path, tensors, **metadata):
    """A slot as gems-edge wrote it before deltas, spelt out again."""
    metadata = {
        "format": "gems-edge-state", "format_version": "2", "generation": "3", "bundle": BUNDLE,
        "classes": '["a", "b"]', "steps": "5", "images": "10", **metadata,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(json.dumps([name, list(tensors[name].shape), "<f4"]).encode() + tensors[name].tobytes())
    path.write_bytes(safetensors.numpy.save(tensors, metadata | {"sha256": digest.hexdigest()}))


def header(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
