"""Ticket files: they give back what was saved, are as small as bits are, and a bad one is refused in one line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save

from gems_edge.errors import UserError
from gems_edge.models.spec import ModelSpec
from gems_edge.models.ticket import FORMAT, Ticket, check_fits, load_ticket, maskable, model_of, save_ticket

SPEC = ModelSpec("conv4", (8, 6, 4, 8), 28, 1, "support", "per-class", 5)
SHAPES = {"backbone.blocks.0.conv.weight": (8, 1, 3, 3), "head.weight": (5, 8)}


def made(**changes) -> Ticket:
    random = np.random.default_rng(0)
    masks = {name: random.random(shape) < 0.3 for name, shape in SHAPES.items()}
    found = {"iterations": 8, "settled": True, "overlaps": [[4, 0.5], [8, 1.0]]}
    return replace(Ticket("pmt", "weight", 0.7, masks, model_of(SPEC), found), **changes)


@st.composite
def masks(draw):
    names = draw(st.lists(st.text("abc.0", min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    drawn = {}
    for name in names:
        shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, max_side=5))
        drawn[name] = draw(arrays.arrays(bool, shape))
        drawn[name].reshape(-1)[draw(st.integers(0, drawn[name].size - 1))] = True  # an empty layer is refused
    return drawn


@given(masks(), st.sampled_from(["weight", "channel"]), st.floats(0, 1))
@settings(max_examples=60)
def test_what_was_saved_comes_back(tmp_path_factory, masks, unit, ratio):
    path = tmp_path_factory.getbasetemp() / "any.ticket"
    ticket = made(masks=masks, unit=unit, ratio=ratio)
    save_ticket(path, ticket)
    loaded = load_ticket(path)
    assert replace(loaded, masks={}) == replace(ticket, masks={})
    assert list(loaded.masks) == list(masks)  # forward order
    for name, mask in masks.items():
        assert loaded.masks[name].dtype == bool and loaded.masks[name].shape == mask.shape
        assert np.array_equal(loaded.masks[name], mask)


def test_a_mask_takes_a_bit_a_position(tmp_path):
    sizes = []
    for side in (8, 800):
        path = tmp_path / f"{side}.ticket"
        save_ticket(path, made(masks={"weight": np.random.default_rng(0).random((side, 100)) < 0.5}))
        sizes.append(path.stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(792 * 100 / 8, abs=16)


def test_kept_and_widths():
    bits = np.arange(8) < 2
    ticket = made(unit="channel", masks={f"widths.{n}": mask for n, mask in enumerate((bits, ~bits, ~bits, bits))})
    assert ticket.kept == 0.5 and ticket.spec(replace(SPEC, widths=(8,) * 4)) == replace(SPEC, widths=(2, 6, 6, 2))
    assert made().widths == SPEC.widths and made().spec(SPEC) == SPEC
    counted = made()
    kept = sum(mask.sum() for mask in counted.masks.values())
    assert counted.kept == kept / sum(map(math.prod, SHAPES.values()))


def test_norms_and_biases_are_not_maskable():
    shapes = {
        "backbone.conv.weight": (8, 1, 3, 3),
        "backbone.norm.weight": (8,),
        "head.weight": (5, 8),
        "head.bias": (5,),
    }
    assert maskable(shapes) == ("backbone.conv.weight", "head.weight")


def refused(path) -> str:
    """The one line that `load_ticket` refuses the file with."""
    with pytest.raises(UserError) as error:
        load_ticket(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole, cut = tmp_path / "whole.ticket", tmp_path / "cut.ticket"
    save_ticket(whole, made())
    content = whole.read_bytes()
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        refused(cut)
    cut.write_bytes(content)
    load_ticket(cut)


@given(st.data())
@settings(max_examples=200)
def test_a_file_with_wrong_bytes_is_refused_or_read_but_never_crashes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "wrong.ticket"
    save_ticket(path, made())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        check_fits(load_ticket(path), SPEC, path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_foreign_safetensors_file_is_refused(tmp_path, dtype):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save({"head.weight": torch.zeros(5, 8).to(dtype)}))
    refused(path)
    path.write_bytes(safetensors.torch.save({"head.weight": torch.zeros(5, 8).to(dtype)}, {"format": "pt"}))
    refused(path)


@pytest.mark.parametrize("content", [b"", b"no ticket", b"\x00" * 64, b"\xff" * 64, b'{"format": 1}'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    refused(path)


def written(path, about, bits=None, form=FORMAT) -> None:
    bits = {"w": np.packbits(np.ones(3, bool))} if bits is None else bits
    path.write_bytes(save(bits, {"format": form, "ticket": about if isinstance(about, str) else json.dumps(about)}))


ABOUT = {"method": "mwt", "unit": "weight", "ratio": 0.5, "model": model_of(SPEC), "found": {}, "shapes": {"w": [3]}}
WRONG = [
    *("", "[]", '"text"', "null", "3"),
    *(ABOUT | {"more": 1}, ABOUT | {"masks": {}}, ABOUT | {"unit": "layer"}, ABOUT | {"model": []}),
    *(ABOUT | {"shapes": shapes} for shapes in ({}, [3], {"v": [3]})),
    *(ABOUT | {"shapes": {"w": shape}} for shape in ([9], [3.0], [1e308, 9], [-1, -3], [1 << 40, 1 << 40], None)),
    {name: value for name, value in ABOUT.items() if name != "ratio"},
]


@pytest.mark.parametrize("about", WRONG, ids=range(len(WRONG)))
def test_a_wrong_header_is_refused(tmp_path, about):
    path = tmp_path / "wrong.ticket"
    written(path, ABOUT)
    load_ticket(path)  # so the refusal below is due to what differs
    written(path, about)
    refused(path)


def test_wrong_masks_and_versions_are_refused(tmp_path):
    path = tmp_path / "wrong.ticket"
    written(path, ABOUT, bits={"w": np.ones(1, np.float32)})
    refused(path)
    written(path, ABOUT, form="gems-edge ticket 2")
    assert "gems-edge ticket 2" in refused(path) and FORMAT in refused(path)


def test_a_ticket_that_leaves_a_layer_empty_is_refused(tmp_path):
    path = tmp_path / "empty.ticket"
    empty = made()
    empty.masks["head.weight"][:] = False
    save_ticket(path, empty)
    assert "head.weight" in refused(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert "not there" in refused(tmp_path / "nothing.ticket")
    refused(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "ticket")


@pytest.mark.parametrize(
    "name, other",
    [
        ("backbone", ModelSpec("resnet12", (8,) * 12, 28, 1, "support", "per-class", 5)),
        ("widths", replace(SPEC, widths=(8, 6, 4, 4))),
        ("image size", replace(SPEC, image_size=32)),
        ("channels", replace(SPEC, channels=3)),
        ("head", replace(SPEC, head="shared")),
        ("ways", replace(SPEC, ways=4)),
    ],
)
def test_a_ticket_of_another_model_is_refused_by_what_differs(name, other):
    with pytest.raises(UserError, match=f"file is a ticket of another model: its {name} is") as error:
        check_fits(made(), other, "file")
    assert "\n" not in str(error.value)


def test_a_ticket_fits_its_model():
    assert check_fits(made(), replace(SPEC, normalization="transductive"), "file").method == "pmt"
    shared = replace(SPEC, head="shared")  # then the number of ways is no part of the model
    assert check_fits(made(model=model_of(shared)), replace(shared, ways=9), "file")
