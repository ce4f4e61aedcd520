"""What is computed again, and what is kept for all images instead."""

import numpy as np
import onnx_ir as ir

from gems_edge.export.passes.kept import is_product


def test_only_a_convolution_that_picks_is_no_product():
    """A frozen 1×1 convolution of as many filters as channels has a picking one's shape."""

    def counts(weight):
        value = ir.val("weight", const_value=ir.tensor(weight.astype(np.float32)))
        return is_product(ir.node("Conv", [ir.val("x"), value]))

    assert counts(np.full((8, 8, 1, 1), 0.5)) and not counts(np.eye(27).reshape(27, 3, 3, 3))
