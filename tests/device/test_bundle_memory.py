"""What a manifest says of memory and work: manifests without or with damaged figures are refused."""

import handmade as hm
import pytest

from gems_edge.device.bundle import read_bundle
from gems_edge.errors import UserError
from gems_edge.predict.memory import predict_memory


@pytest.fixture
def path(tmp_path):
    return hm.write_bundle(tmp_path / "h.gems")


def test_it_is_asked_for(path):
    assert predict_memory(read_bundle(path).manifest["cost"], 3, "adapt").low > 0
    hm.edit_manifest(path, lambda m: m["cost"].pop("memory"))
    with pytest.raises(UserError, match="cost.memory"):
        read_bundle(path)


@pytest.mark.parametrize("work", [None, {"ops": "many"}, {"ops": -1}, {"ops": True}, [1]])
def test_so_is_the_work(path, work):
    hm.edit_manifest(path, lambda m: m["cost"]["adapt_step"].update(work=work))
    with pytest.raises(UserError, match="cost.adapt_step.work"):
        read_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: memory.pop("adapt"),
        lambda memory: memory.update(image_bytes="many"),
        lambda memory: memory["adapt"].pop("nodes"),
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
    memory = {name: dict(part) if isinstance(part, dict) else part for name, part in hm.MEMORY.items()}
    change(memory)
    hm.edit_manifest(path, lambda m: m["cost"].update(memory=memory))
    with pytest.raises(UserError, match="cost.memory"):
        read_bundle(path)
    hm.edit_manifest(path, lambda m: m["cost"].update(memory=[1]))
    with pytest.raises(UserError, match="cost.memory"):
        read_bundle(path)
