"""What `devices calibrate` times: counted as its graphs are, and never more work when made smaller."""

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.calibrate.counting import graph_work
from gems_edge.calibrate.fit import MIDDLE, fit
from gems_edge.calibrate.graph import Builder
from gems_edge.calibrate.onnx_bytes import model_bytes
from gems_edge.calibrate.probe_sets import one_op_probes, whole_networks
from gems_edge.calibrate.steps import gradient_step, mobile_step
from gems_edge.graphs.cost import describe
from gems_edge.graphs.ops import ROWS, row_of
from gems_edge.predict.work import TERMS

SPREAD = 0.7  # of rates that the fit is tried on, in logarithms: a factor of 2


def test_probes_are_counted_as_their_graphs_are():
    """Probes write their own bytes and count their own work; onnx and describe must find the same in them."""
    for probe in one_op_probes() + whole_networks():
        model = onnx.load_from_string(model_bytes(probe))
        onnx.checker.check_model(model, full_check=True)
        counted = describe(model, {})["work"]
        assert {t: pytest.approx(v, rel=0.01) for t, v in graph_work(probe).items()} == counted, probe.name


def nodes_of(graph):
    for node in graph.nodes:
        yield from nodes_of(node.body) if node.body is not None else (node,)


def test_every_kind_of_cost_in_the_table_of_ops_has_a_probe():
    probed = {row_of(node.kind).cost for probe in one_op_probes() for node in nodes_of(probe) if not node.fused}
    assert {row.cost for row in ROWS.values()} == probed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_probes_tell_every_rate(seed):
    """Of a machine whose rates are known those are found that its times are made of: no two terms are always there
    together, and none is too little of every probe."""
    spread = np.random.default_rng(seed).normal(0, SPREAD, len(TERMS))
    rates = {term: MIDDLE[term] * math.exp(off) for term, off in zip(TERMS, spread)}
    works = [graph_work(probe) for probe in one_op_probes() if probe.name != "call"]
    times = [sum(amount * rates[term] for term, amount in work.items()) / 1e6 for work in works]
    off = {term: abs(math.log(rate / rates[term])) for term, rate in fit(works, np.array(times)).items()}
    assert max(off.values()) < math.log(2) and np.median(list(off.values())) < 0.05


@settings(max_examples=20)
@given(st.integers(1, 24), st.integers(1, 8), st.integers(1, 6), st.booleans(), st.data())
def test_a_smaller_gradient_step_is_never_more_work(width, quarters, images, each, data):
    """In channels, pixels and images, in every term."""
    less = [data.draw(st.integers(1, most)) for most in (width, quarters, images)]
    whole = graph_work(gradient_step(width, 8 * quarters, images, each))
    smaller = graph_work(gradient_step(less[0], 8 * less[1], less[2], each))
    assert all(smaller.get(term, 0) <= whole.get(term, 0) for term in TERMS)


@settings(max_examples=20)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.lists(st.sampled_from([1, 2]), max_size=2), st.data()
)
def test_a_smaller_mobile_step_is_never_more_work(width, quarters, images, strides, data):
    less = [data.draw(st.integers(1, most)) for most in (width, quarters, images)]
    whole = graph_work(mobile_step(width, 4 * quarters, images, (1, *strides)))
    smaller = graph_work(mobile_step(less[0], 4 * less[1], less[2], (1, *strides)))
    assert all(smaller.get(term, 0) <= whole.get(term, 0) for term in TERMS)


@settings(max_examples=40)
@given(
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    side=st.integers(2, 24),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    less=st.integers(0, 39),
)
def test_fewer_channels_are_never_more_work(channels, outputs, side, kernel, stride, less):
    """In no term: so no board, whatever its rates, is predicted to be slower after pruning."""

    def of(inputs, filters):
        builder = Builder("pruned", (1, inputs, side, side))
        end = builder.conv("x", filters, kernel, stride)
        return graph_work(builder.graph(builder.pool(end) if side > 3 else end))

    whole = of(channels, outputs)
    for pruned in (of(max(1, channels - less), outputs), of(channels, max(1, outputs - less))):
        assert all(pruned.get(term, 0) <= whole.get(term, 0) for term in TERMS)
