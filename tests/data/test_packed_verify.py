"""gems-edge verify of packed files, through the real command line."""

import numpy as np
import pytest
from data_making import make_set
from verifying import flip, verify

from gems_edge.data.packed import write_packed


@pytest.mark.parametrize("encode", [True, False])
def test_packed_files(cli_here, tmp_path, encode):
    path = tmp_path / "p.npz"
    write_packed(make_set([3, 3, 3], ["train", "val", "test"]), path, encode=encode)
    parts, rescue = verify(cli_here, path)
    assert parts.keys() >= {"classes", "label", "split", "what they say", "data" if encode else "images"}
    assert rescue is None
    content = path.read_bytes()
    key = b"data.npy" if encode else b"images.npy"
    flip(path, content.index(key) + 160)
    parts, rescue = verify(cli_here, path, code=2)
    assert [name for name, whole in parts.items() if not whole] == [key.decode().removesuffix(".npy")]
    assert "pack it anew" in rescue
    path.write_bytes(content[: len(content) // 2])
    verify(cli_here, path, code=2)


def test_arrays_that_do_not_fit_each_other(cli_here, tmp_path):
    np.savez(tmp_path / "p.npz", classes=np.array(["a"]), label=np.array([0, 5]), split=np.array(["train"]))
    parts, _ = verify(cli_here, tmp_path / "p.npz", code=2)
    assert not parts.pop("what they say") and all(parts.values())


def test_a_file_that_is_no_packed_one(cli_here, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    assert "no packed data file" in cli_here("verify", tmp_path / "notes.txt", code=2).stderr
