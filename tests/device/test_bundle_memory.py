"""What a manifest says of memory: bundles from before go without, damaged ones are refused."""

import handmade as hm
import pytest

from gems_edge.device.bundle import read_bundle
from gems_edge.errors import UserError
from gems_edge.predict.memory import predict_memory

MEMORY = {
    "image_bytes": 1024,
    "predict": {"images": [1, 16], "arena_bytes": [5_000, 80_000]},
    "adapt": {"images": [3], "arena_bytes": [300_000]},
}


@pytest.fixture
def path(tmp_path):
    return hm.write_bundle(tmp_path / "h.gems")


def test_with_and_without(path):
    before = predict_memory(read_bundle(path).manifest["cost"], 3, "adapt")
    assert "estimated" in before.source
    hm.edit_manifest(path, lambda m: m["cost"].update(memory=MEMORY))
    after = predict_memory(read_bundle(path).manifest["cost"], 3, "adapt")
    assert "simulated" in after.source and after.value > before.value


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: memory.pop("adapt"),
        lambda memory: memory.update(image_bytes="many"),
        lambda memory: memory["predict"].update(images=[]),
        lambda memory: memory["predict"].update(images=[16, 1]),
        lambda memory: memory["predict"].update(images=[0, 1]),
        lambda memory: memory["predict"].update(images=[1, 1]),
        lambda memory: memory["predict"].update(arena_bytes=[1]),
        lambda memory: memory["predict"].update(arena_bytes=[1, -1]),
        lambda memory: memory["predict"].update(arena_bytes=[1, "x"]),
    ],
)
def test_damaged(path, change):
    memory = {name: dict(part) if isinstance(part, dict) else part for name, part in MEMORY.items()}
    change(memory)
    hm.edit_manifest(path, lambda m: m["cost"].update(memory=memory))
    with pytest.raises(UserError, match="cost.memory"):
        read_bundle(path)
    hm.edit_manifest(path, lambda m: m["cost"].update(memory=[1]))
    with pytest.raises(UserError, match="cost.memory"):
        read_bundle(path)
