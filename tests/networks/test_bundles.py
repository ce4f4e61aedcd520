"""A bundle of every network: it learns as torch does, keeps what it was taught, and takes the memory that it said."""

import numpy as np
import onnx
import pytest
from every_network import NETWORKS, settings, start
from image_sets import flat_icons
from memory_bundles import write_untrained

from gems_edge.calibrate.onnx_bytes import model_bytes
from gems_edge.calibrate.probe_sets import one_op_probes
from gems_edge.data.episodes import make_sampler
from gems_edge.device.bundle import read_bundle
from gems_edge.device.learner import Learner
from gems_edge.device.measure import fresh_memory
from gems_edge.export.source import MetaModel
from gems_edge.export.verify import verify_bundle
from gems_edge.graphs.executed import executed
from gems_edge.graphs.passes.optimised import optimise
from gems_edge.graphs.shapes import fix_dims, sized
from gems_edge.predict.memory import predict_memory

SHOTS = 2


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    """A bundle in mode support with a shared head, what it was made of, and flat-coloured icons."""
    config = settings(request.param, "maml", ("support",))
    model, weights, rule = start(config)
    path = tmp_path_factory.mktemp(request.param) / "a.gems"
    write_untrained(model, weights, rule, {(SHOTS, "balanced"): path})
    return path, MetaModel(model, weights, rule), flat_icons(config.image_size, 0)


def episodes(icons, ways, shots=SHOTS, count=3):
    sampler = make_sampler(icons.sets[0], "test", ways, shots, 3, seed=0)
    return [sampler.draw(0, task) for task in range(count)]


@pytest.mark.parametrize("ways, shots", [(5, 2), (2, 3)])
def test_it_passes_the_gate(exported, ways, shots):
    path, learned, icons = exported
    assert verify_bundle(path, learned, 3, icons, episodes(icons, ways, shots)).passed


def test_a_state_answers_as_the_learner_that_saved_it(exported, tmp_path):
    path, _, icons = exported
    learner, (task,) = Learner.load(path, threads=1), episodes(icons, 4, count=1)
    learner.adapt(icons.images[task.support], np.repeat(list("abcd"), SHOTS).tolist(), steps=2)
    learner.save(tmp_path / "a.state")
    other = Learner.load(path, threads=1)
    other.load_state(tmp_path / "a.state")
    queries = icons.images[task.query.reshape(-1)]
    assert other.classes == learner.classes == tuple("abcd")
    assert np.array_equal(other.predict(queries), learner.predict(queries))


def kinds_of_work(model, dims):
    """Of each op in a graph: what its time is made of, and of convolutions which they are."""
    graph = sized(fix_dims(model, dims))
    optimise(graph)
    ops = [part for op in executed(graph.graph, channel_blocks=False).ops for part in op.parts or (op,)]
    return {(op.kind if op.kind.startswith("Conv") else "", frozenset(op.work) - {"far"}) for op in ops}


def test_devices_calibrate_times_every_kind_of_work_that_a_step_is_made_of(exported):
    path, *_ = exported
    probed = {
        kind for probe in one_op_probes() for kind in kinds_of_work(onnx.load_from_string(model_bytes(probe)), {})
    }
    assert kinds_of_work(onnx.load(path / "adapt.onnx"), {"images": 10, "classes": 5}) <= probed


@pytest.mark.slow(15)
def test_it_takes_the_memory_that_was_predicted(exported):
    path = exported[0]
    bundle = read_bundle(path)
    for what, images in (("predict", 1), ("adapt", bundle.ways * bundle.shots)):
        measured = min(run["peak_mb"] for run in fresh_memory(path, what, images, threads=1, repeats=2))
        assert predict_memory(bundle.manifest["cost"], images, what).value == pytest.approx(measured, rel=0.1), what
