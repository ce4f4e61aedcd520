"""Files of tensors are read and written as the library does, and what is none is refused in one line."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load

from gems_edge.device.tensors import tensor_parts, tensor_views
from gems_edge.errors import UserError

TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(["<f4", "<f8", "<f2", "<i8", "|u1"]).flatmap(
        lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), fill=st.nothing())
    ),
    max_size=4,
)


@given(TENSORS)
def test_what_was_written_is_read(tensors):
    by_library = safetensors.numpy.save(tensors, {"of": "a test"})
    by_parts = b"".join(tensor_parts(tensors, {"of": "a test"}))
    for found in (tensor_views(by_library, "a file"), tensor_views(by_parts, "a file"), load(by_parts)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert found[name].tobytes() == tensor.tobytes()
    assert not any(tensor.flags.writeable for tensor in tensor_views(by_library, "a file").values())


@given(st.data())
def test_damage_is_refused_or_read(data):
    content = bytearray(safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b": np.ones(1)}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensor_views(bytes(content[: data.draw(st.integers(0, len(content)))]), "a file")
    except UserError as error:
        assert "a file cannot be read as safetensors" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "entry",
    [
        "7",
        '{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}',
        '{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[1],"data_offsets":[4,8]}',
        '{"dtype":"F32","shape":[1],"data_offsets":[0,8]}',
        '{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}',
    ],
)
def test_tensors_that_are_none(entry):
    header = f'{{"a":{entry}}}'.encode()
    with pytest.raises(UserError, match="tensor a"):
        tensor_views(len(header).to_bytes(8, "little") + header + bytes(4), "a file")
