"""What `devices calibrate` times: counted as its graphs are, and never more work when made smaller."""

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.calibrate.counting import graph_work
from gems_edge.calibrate.graph import Builder
from gems_edge.calibrate.onnx_bytes import model_bytes
from gems_edge.calibrate.probe_sets import gradient_step, one_op_probes, whole_networks
from gems_edge.graphs.cost import describe
from gems_edge.predict.work import TERMS


def test_probes_are_counted_as_their_graphs_are():
    """Probes write their own bytes and count their own work; onnx and describe must find the same in them."""
    for probe in one_op_probes() + whole_networks():
        model = onnx.load_from_string(model_bytes(probe))
        onnx.checker.check_model(model, full_check=True)
        counted = describe(model, {})["work"]
        assert {t: pytest.approx(v, rel=0.01) for t, v in graph_work(probe).items()} == counted, probe.name


@settings(max_examples=20)
@given(st.integers(1, 24), st.integers(1, 8), st.integers(1, 6), st.booleans(), st.data())
def test_a_smaller_gradient_step_is_never_more_work(width, quarters, images, each, data):
    """In channels, pixels and images, in every term."""
    less = [data.draw(st.integers(1, most)) for most in (width, quarters, images)]
    whole = graph_work(gradient_step(width, 8 * quarters, images, each))
    smaller = graph_work(gradient_step(less[0], 8 * less[1], less[2], each))
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
