"""Depthwise convolutions of tiny maps as a product for each channel."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from gems_edge.export.passes.channel_products import multiply_channels

PLANNED = {"images": 10}


def convolution(kernel=5, stride=1, pads=(2, 2, 2, 2), side=4, group=6, bias=True, fed=True):
    """A step with one Conv of six channels, whose weight is fed, times a fed number, or constant."""
    kernel_of = f"float[6, {6 // group}, {kernel}, {kernel}]"
    out = (side + pads[0] + pads[2] - kernel) // stride + 1
    ones = ", ".join(["0.5"] * (6 * 6 // group * kernel * kernel))
    constant = f"<{kernel_of} weight = {{{ones}}}>"
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["": 20]>
        step (float[images, 6, {side}, {side}] x, {f"{kernel_of} weight, " if fed else ""}float scale, float[6] bias)
            => (float[images, 6, {out}, {out}] y)
        {"" if fed else constant}
        {{
            scaled = {"Mul(weight, scale)" if fed else "Identity(weight)"}
            maps = Conv<pads = {list(pads)}, strides = [{stride}, {stride}], group = {group},
                        kernel_shape = [{kernel}, {kernel}]>(x, scaled{", bias" if bias else ""})
            y = Relu(maps)
        }}
    """)


def run(model, images):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    shapes = {
        each.name: [images if isinstance(size, str) else size for size in each.shape] for each in session.get_inputs()
    }
    [found] = session.run(None, {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})
    return found


@pytest.mark.parametrize(
    "form",
    [{}, {"bias": False}, {"kernel": 3, "pads": (1, 1, 1, 1)}, {"stride": 2, "side": 7, "pads": (0, 0, 0, 0)}],
    ids=str,
)
def test_a_tiny_convolution_of_each_channel_is_a_product(form):
    model = convolution(**form)
    expected = [run(model, images) for images in (3, 10)]  # not only the planned number
    assert multiply_channels(model, PLANNED)
    assert not any(node.op_type == "Conv" for node in model.graph)
    for images, before in zip((3, 10), expected):
        np.testing.assert_allclose(run(model, images), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [{"side": 12}, {"group": 1}, {"fed": False}, {"pads": (2, 2, 1, 1)}],
    ids=["large maps", "channels together", "constant weight", "other padding behind"],
)
def test_all_else_stays_a_convolution(form):
    model = convolution(**form)
    assert not multiply_channels(model, PLANNED)
    assert any(node.op_type == "Conv" for node in model.graph)
