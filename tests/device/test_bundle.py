"""Bundles that are incomplete, altered, foreign or malicious are refused in one line."""

import copy
import json
import os
import subprocess

import handmade as hm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gems_edge.device import Learner
from gems_edge.device.bundle import bundle_bytes, read_bundle
from gems_edge.device.bundle_files import FILES, manifest_sum
from gems_edge.errors import UserError


@pytest.fixture
def path(tmp_path):
    return hm.write_bundle(tmp_path / "h.gems", decay=0.5)


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        read_bundle(path)
    assert "\n" not in str(caught.value)


def test_reads_what_was_written(path):
    bundle = read_bundle(path)
    assert (bundle.ways, bundle.head, bundle.image_size, bundle.channels, bundle.steps) == (3, "shared", 16, 1, 5)
    assert set(bundle.all_tensors()) >= {*bundle.adapted, *bundle.statistics}
    assert bundle.carried == (hm.CARRIED,) and bundle.tensors(bundle.carried) == {hm.CARRIED: np.float32([hm.RATE])}
    assert bundle_bytes(bundle).keys() == {"manifest.json", "manifest.sha256", *FILES}


def test_carried_tensors_may_be_left_out(tmp_path):
    assert read_bundle(hm.write_bundle(tmp_path / "plain.gems")).carried == ()


def test_no_bundle(tmp_path):
    refused(tmp_path / "absent.gems", "not a bundle")
    (tmp_path / "file.gems").write_text("x")
    refused(tmp_path / "file.gems", "not a bundle")
    (tmp_path / "empty.gems").mkdir()
    refused(tmp_path / "empty.gems", "manifest.json does not exist")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", '{"format": "other"}'])
def test_foreign_manifest(path, text):
    hm.write_manifest(path, text)
    refused(path, "not valid JSON|not a gems-edge bundle")


def test_binary_manifest(path):
    (path / "manifest.json").write_bytes(content := bytes(range(256)))
    (path / "manifest.sha256").write_bytes(manifest_sum(content))
    refused(path, "not valid JSON")


def test_versions(path):
    hm.edit_manifest(path, lambda m: m.update(format_version=99))
    refused(path, "format 99.*install a newer gems-edge")
    hm.edit_manifest(path, lambda m: m.update(format_version="1"))
    refused(path, "'format_version' must be a whole number")


@pytest.mark.parametrize("file", FILES)
def test_altered_truncated_and_missing_files(path, file):
    content = (path / file).read_bytes()
    for altered in (content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:], b""):
        (path / file).write_bytes(altered)
        refused(path, f"{file} (was altered|is larger than)")
    (path / file).unlink()
    refused(path, f"{file} is missing")
    hm.edit_manifest(path, lambda m: m["files"].pop(file))
    refused(path, f"does not list {file}")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\0b"])
def test_names_outside_the_bundle(path, name):
    hm.edit_manifest(path, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    refused(path, "outside the bundle")


def test_links_are_not_followed(path, tmp_path):
    (path / "adapt.onnx").rename(tmp_path / "elsewhere.onnx")
    (path / "adapt.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    refused(path, "not a plain file")


def test_any_wrong_manifest_entry_is_a_user_error(path):
    manifest = json.loads((path / "manifest.json").read_text())
    for place in _leaves(manifest):
        for wrong in (None, -1, 1.5, "x", [], {}, [1], True, 10**30):
            changed = copy.deepcopy(manifest)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            hm.write_manifest(path, json.dumps(changed))
            try:
                learner = Learner.load(path)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                if learner.bundle.steps < 100 and learner.bundle.ways < 100:
                    learner.predict(hm.pictures(2, 1)[0])


def _leaves(value, place=()):
    if place:
        yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))


def use(path):
    """Adapt and predict, so that both graphs are loaded and run."""
    learner = Learner.load(path)
    learner.adapt(*hm.pictures(2, 1))
    learner.predict(hm.pictures(2, 1)[0])


@pytest.mark.parametrize("file", ["predict.onnx", "adapt.onnx"])
def test_foreign_graphs_under_a_fitting_hash(path, file):
    content = (path / file).read_bytes()
    identity = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    foreign = helper.make_model(identity, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    newer = onnx.load_from_string(content)
    newer.ir_version, newer.opset_import[0].version = 99, 99
    cut = [content[: len(content) * i // 7] for i in range(7)]
    for wrong in (
        foreign.SerializeToString(),
        newer.SerializeToString(),
        b"\x00" * 64,
        b"PK\x03\x04 zip",
        b"not onnx at all",
        *cut,
    ):
        hm.replace_file(path, file, wrong)
        with pytest.raises(UserError, match=file) as caught:
            use(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["predict.onnx", "adapt.onnx"])
def test_external_data_is_refused(path, file, tmp_path):
    model = onnx.load_from_string((path / file).read_bytes())
    tensor = next(t for t in model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    tensor.ClearField("raw_data")
    hm.replace_file(path, file, model.SerializeToString())
    with pytest.raises(UserError, match="in another file"):
        use(path)


def test_graph_whose_weights_have_another_shape(path):
    weights = {
        hm.CONV: np.zeros((hm.FEATURES, 1, hm.PATCH, hm.PATCH), np.float32),
        "head.weight": np.zeros((3, 8), np.float32),
    }
    weights |= {
        "head.bias": np.zeros(3, np.float32),
        hm.MEAN: np.zeros((1, 8), np.float32),
        hm.VAR: np.ones((1, 8), np.float32),
    }
    hm.replace_file(path, "predict.onnx", hm.predict_model(weights, (hm.MEAN, hm.VAR)).SerializeToString())
    with pytest.raises(UserError, match=r"backbone.norm.mean has shape \[1, 8\]"):
        use(path)


def test_weights_that_do_not_fit(path):
    hm.replace_file(path, "weights.safetensors", b"garbage")
    refused(path, "cannot be read as safetensors")


def test_any_kind_of_file_but_a_plain_one(path, tmp_path):
    """Nothing is read of it, so nothing hangs, and nothing endless is read."""
    for file in ("manifest.json", "manifest.sha256", *FILES):
        content = (path / file).read_bytes()
        for put in (os.mkfifo, os.mkdir, lambda where: os.symlink("/dev/zero", where)):
            (path / file).unlink(missing_ok=True)
            put(path / file)
            refused(path, f"{file} is not a plain file, but a (FIFO|directory|link)")
            (path / file).rmdir() if (path / file).is_dir() else (path / file).unlink()
            (path / file).write_bytes(content)
    read_bundle(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"format": NaN}', '{"ways": -Infinity}', "1" * 10_000]
)
def test_json_that_is_none_to_others(path, text):
    hm.write_manifest(path, text)
    refused(path, "is not valid JSON")


def test_a_huge_manifest_is_not_read(path):
    (path / "manifest.json").write_bytes(b" " * (5 << 20))
    refused(path, "larger than the")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(shots=3, least_shots=4), "'least_shots' must be a whole number from 1 to 3"),
        (lambda m: m["rule"].update(steps=0), "'rule.steps' must be a whole number from 1"),
        (lambda m: m["rule"].update(steps_by_shots=[[1, 0]]), "steps from 1 to rule.steps"),
        (lambda m: m["rule"].update(steps_by_shots=[[1, 6]]), "steps from 1 to rule.steps"),
        (lambda m: m["rule"].update(steps_by_shots=[[10**15, 1]]), "steps from 1 to rule.steps"),
        (
            lambda m: m["cost"]["predict"].update(macs=9 * 10**18),
            "'cost.predict.macs' must be a number that is not negative",
        ),
        (lambda m: m["cost"]["predict"]["work"].update(ops=1e30), "'cost.predict.work' must be"),
        (lambda m: m["files"]["adapt.onnx"].update(bytes=-1), "'files/adapt.onnx/bytes' must be"),
        (lambda m: m["files"].update({"adapt.onnx": 7}), "'files/adapt.onnx/sha256' must be"),
        (lambda m: m["image"].update(channels=2), "'image.channels' must be 1 or 3"),
    ],
)
def test_numbers_out_of_range_are_named(path, change, message):
    hm.edit_manifest(path, change)
    refused(path, message)


def test_a_prototype_head_may_take_no_step(path):
    hm.edit_manifest(path, lambda m: m.update(head="prototype", rule={"steps": 5, "steps_by_shots": [[1, 0], [5, 5]]}))
    assert read_bundle(path).steps_by_shots == ((1, 0), (5, 5))


def test_a_file_that_was_changed_after_it_was_checked_is_not_used(path):
    learner = Learner.load(path)
    for file in FILES:
        content = (path / file).read_bytes()
        (path / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{file} was altered"):
            learner.adapt(*hm.pictures(2, 1))
            learner.predict(hm.pictures(2, 1)[0])
        (path / file).write_bytes(content)
    learner.adapt(*hm.pictures(2, 1))


@pytest.mark.parametrize("file", FILES)
def test_what_is_opened_for_one_answer_is_checked_before_it_is_used(path, file):
    content = (path / file).read_bytes()
    for wrong in (content[:-1], content + b"\0"):
        (path / file).write_bytes(wrong)
        with pytest.raises(UserError, match=f"{file} (was altered|is larger than)"):
            read_bundle(path, check_all=False)
    (path / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{file} was altered"):
        learner = Learner.load(path, check_all=False)
        learner.predict(hm.pictures(2, 1)[0])
        learner.adapt(*hm.pictures(2, 1))
    (path / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        read_bundle(path, check_all=False)


@pytest.mark.parametrize("file", ["manifest.json", "manifest.sha256"])
def test_every_bit_of_the_manifest_counts(path, file):
    content = bytearray((path / file).read_bytes())
    for position in range(len(content)):
        for bit in range(8):
            content[position] ^= 1 << bit
            (path / file).write_bytes(content)
            with pytest.raises(UserError, match="manifest.json was altered"):
                read_bundle(path)
            content[position] ^= 1 << bit
    (path / file).write_bytes(content)
    read_bundle(path)


def test_a_manifest_without_a_checksum_is_read_and_that_is_said(path):
    (path / "manifest.sha256").unlink()
    with pytest.warns(UserWarning, match="has no manifest.sha256: it is older, or was not copied whole"):
        assert bundle_bytes(read_bundle(path)).keys() == {"manifest.json", *FILES}


def test_others_can_check_the_manifest(path):
    command = ["sha256sum", "--check", "--strict", "manifest.sha256"]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True)
    assert done.stdout == "manifest.json: OK\n"
