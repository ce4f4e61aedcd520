"""A bundle's self-test: what it answered where it was exported is what it answers here, and damage to it is told."""

import handmade as hm
import numpy as np
import pytest
import safetensors.numpy

from gems_edge.device.bundle import read_bundle
from gems_edge.device.selftest import enlarged, fields, make_selftest, run_selftest
from gems_edge.errors import UserError

FILE = "selftest.safetensors"
KINDS = {
    "all layers": {},
    "a trunk": {"method": "anil", "normalization": "group", "split": True},
    "a row for each class": {"head": "per-class", "ways": 2},
    "colour": {"channels": 3},
}


def write_tested(path, change=lambda tensors: None, **options):
    """A bundle with a self-test, of which `change` makes another."""
    hm.write_bundle(path, **options)
    tensors = safetensors.numpy.load(make_selftest(read_bundle(path)))
    change(tensors)
    hm.replace_file(path, FILE, safetensors.numpy.save(tensors))
    return read_bundle(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_machine_answers_the_same(tmp_path, kind):
    outcome = run_selftest(write_tested(tmp_path / "b.gems", **KINDS[kind]))
    assert outcome.difference["fp32"] < 1e-6 < outcome.allowed["fp32"]


def test_it_is_made_the_same_again_and_small(tmp_path):
    bundle = hm.write_bundle(tmp_path / "b.gems", channels=3)
    first, again = (make_selftest(read_bundle(bundle)) for _ in range(2))
    assert first == again and len(first) < 4096


def test_what_is_allowed_is_far_less_than_answers_differ_by(tmp_path):
    """Else it would find nothing."""
    bundle = write_tested(tmp_path / "b.gems")
    tensors = safetensors.numpy.load(bundle.content(FILE))
    answers = tensors["expected.fp32"]
    assert tensors["allowed.fp32"] < 0.5 * np.ptp(answers, axis=0).min()


def off(name, by):
    def change(tensors):
        tensors[name] = tensors[name] + np.float32(by)

    return change


@pytest.mark.parametrize("change", [off("expected.fp32", 0.3), off("loss", 0.5)], ids=["answers", "loss"])
def test_other_answers_are_refused(tmp_path, change):
    with pytest.raises(UserError, match="answers its self-test otherwise than where it was exported"):
        run_selftest(write_tested(tmp_path / "b.gems", change))


def test_another_network_under_the_same_test_is_refused(tmp_path):
    test = write_tested(tmp_path / "b.gems").content(FILE)
    hm.write_bundle(tmp_path / "other.gems", seed=1)
    hm.replace_file(tmp_path / "other.gems", FILE, test)
    with pytest.raises(UserError, match="otherwise than where it was exported"):
        run_selftest(read_bundle(tmp_path / "other.gems"))


def shorter(tensors):
    tensors["support"] = tensors["support"][:1]


def wider(tensors):
    tensors["queries"] = np.repeat(tensors["queries"], 2, axis=3)


def lost(tensors):
    del tensors["expected.fp32"]


def not_finite(tensors):
    tensors["allowed.fp32"][:] = np.nan


@pytest.mark.parametrize("change", [shorter, wider, lost, not_finite])
def test_what_is_no_self_test_is_said(tmp_path, change):
    with pytest.raises(UserError, match="holds no self-test of this bundle"):
        run_selftest(write_tested(tmp_path / "b.gems", change))


def test_older_bundles_have_none(tmp_path):
    assert run_selftest(read_bundle(hm.write_bundle(tmp_path / "b.gems"))) is None


@pytest.mark.parametrize("size", [8, 16, 28, 84])
def test_fields_keep_their_values_at_any_size(size):
    support, _ = fields(3, 3)
    large = enlarged(support, size)
    assert large.shape == (3, size, size, 3)
    assert (large[:, :: max(1, size // 8)][:, :8, 0] >= 0).all() and set(np.unique(large)) <= set(np.unique(support))
