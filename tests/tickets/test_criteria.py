"""Masks keep the exact number of weights; smart ratios agree with a plain reference found another way."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gems_edge.errors import UserError
from gems_edge.meta.run import seeded_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models.ticket import maskable
from gems_edge.tickets import criteria
from gems_edge.tickets.criteria import HEAD_WEIGHT

RATIOS = st.floats(0, 0.99999)
# Conv-4 with 64 filters, colour images of 84×84, 5 ways: 27 · 64, 576 · 64 three times, 5 · 1600.
CONV4 = {"conv1": 1728, "conv2": 36864, "conv3": 36864, "conv4": 36864, HEAD_WEIGHT: 8000}


@st.composite
def networks(draw) -> dict[str, tuple[int, ...]]:
    """Shapes of the maskable weights of some network; with a head, mostly."""
    body = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=7))
    shapes = {f"conv{n}": shape for n, shape in enumerate(body)}
    return shapes | ({HEAD_WEIGHT: (draw(st.integers(1, 6)), draw(st.integers(1, 40)))} if draw(st.booleans()) else {})


def sizes_of(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


def counts_of(masks):
    return {name: int(mask.sum()) for name, mask in masks.items()}


def scores_for(shapes, seed=0, levels=0):
    """Random scores in the shapes; of so few `levels` that many are equal, if given."""
    random = np.random.default_rng(seed)
    drawn = {name: random.random(shape) for name, shape in shapes.items()}
    return {name: np.floor(score * levels) if levels else score for name, score in drawn.items()}


def exact(masks, shapes, ratio):
    """The masks have the shapes and keep the share 1 − ratio of all positions, to half a weight."""
    total = sum(sizes_of(shapes).values())
    assert {name: mask.shape for name, mask in masks.items()} == shapes and list(masks) == list(shapes)
    assert all(mask.dtype == bool for mask in masks.values())
    assert abs(sum(counts_of(masks).values()) - (1 - ratio) * total) <= 0.5 + 1e-6


@given(networks(), RATIOS, st.integers(0, 3), st.integers(0, 9))
def test_every_criterion_keeps_the_exact_share(shapes, ratio, levels, seed):
    random, scores, sizes = np.random.default_rng(seed), scores_for(shapes, seed, levels), sizes_of(shapes)
    equal, smart = criteria.equal_counts(sizes, ratio), criteria.smart_counts(sizes, ratio)
    exact(criteria.largest(scores, ratio), shapes, ratio)
    exact(criteria.random_over_all(shapes, ratio, random), shapes, ratio)
    for counts in (equal, smart):
        for masks in (
            criteria.largest_in_layers(scores, counts),
            criteria.random_in_layers(shapes, counts, random),
        ):
            exact(masks, shapes, ratio)
            assert counts_of(masks) == counts
    assert all(abs(equal[name] - (1 - ratio) * size) < 1 for name, size in sizes.items())


@given(networks(), RATIOS, RATIOS, st.integers(0, 3))
def test_a_sparser_mask_lies_inside_a_denser_one(shapes, one, other, levels):
    scores, sizes = scores_for(shapes, levels=levels), sizes_of(shapes)
    low, high = sorted((one, other))
    nested = [(criteria.largest(scores, high), criteria.largest(scores, low))]
    # Inside layers the counts must fall too; rounding may move one weight between layers.
    few, many = criteria.equal_counts(sizes, high), criteria.equal_counts(sizes, low)
    if all(few[name] <= many[name] for name in sizes):
        nested.append((criteria.largest_in_layers(scores, few), criteria.largest_in_layers(scores, many)))
    for sparse, dense in nested:
        assert not any((sparse[name] & ~dense[name]).any() for name in shapes)


@given(networks(), RATIOS, st.integers(0, 3))
def test_what_stays_scores_at_least_what_goes(shapes, ratio, levels):
    scores = scores_for(shapes, levels=levels)
    masks = criteria.largest(scores, ratio)
    stays = np.concatenate([scores[name][masks[name]] for name in shapes])
    goes = np.concatenate([scores[name][~masks[name]] for name in shapes])
    assert not stays.size or not goes.size or stays.min() >= goes.max()
    for name, mask in criteria.largest_in_layers(scores, criteria.equal_counts(sizes_of(shapes), ratio)).items():
        if mask.any() and not mask.all():
            assert scores[name][mask].min() >= scores[name][~mask].max()


def test_of_equal_scores_the_earlier_stay():
    scores = {"a": np.ones((2, 3)), "b": np.ones(4)}
    masks = criteria.largest(scores, 0.3)
    assert masks["a"].all() and masks["b"].tolist() == [True, False, False, False]
    assert criteria.largest_of(np.array([[1.0, 2.0], [2.0, 2.0]]), 2).tolist() == [[False, True], [True, False]]


def test_random_masks_depend_on_the_generator_alone():
    shapes = {"a": (20, 3), "b": (40,)}

    def drawn(seed):
        random = np.random.default_rng(seed)
        return [
            criteria.random_over_all(shapes, 0.5, random),
            criteria.random_in_layers(shapes, {"a": 9, "b": 7}, random),
        ]

    for one, same, other in zip(drawn(1), drawn(1), drawn(2)):
        assert all(np.array_equal(one[name], same[name]) for name in shapes)
        assert any(not np.array_equal(one[name], other[name]) for name in shapes)


def test_random_masks_are_uniform():
    """Every position as often as any other: 2000 draws of a third, within five standard deviations."""
    random, shapes, draws = np.random.default_rng(0), {"a": (2, 5), "b": (20,)}, 2000
    over_all, inside = np.zeros(30), np.zeros(30)
    for _ in range(draws):
        over_all += np.concatenate([m.reshape(-1) for m in criteria.random_over_all(shapes, 2 / 3, random).values()])
        masks = criteria.random_in_layers(shapes, {"a": 1, "b": 10}, random)
        inside += np.concatenate([m.reshape(-1) for m in masks.values()])
    for count, share in ((over_all, 1 / 3), (inside[:10], 1 / 10), (inside[10:], 1 / 2)):
        assert np.abs(count / draws - share).max() < 5 * math.sqrt(share * (1 - share) / draws)


def smart_shares(sizes: dict[str, int], ratio: float, head_keep: float) -> dict[str, float]:
    """Smart ratios by bisection for the scale s: a layer keeps min(1, s · ((L − l + 1)² + (L − l + 1)))."""
    total = (1 - ratio) * sum(sizes.values())
    body = [name for name in sizes if name != HEAD_WEIGHT]
    head = min(min(head_keep, 3 * (1 - ratio)) * sizes.get(HEAD_WEIGHT, 0), total / 2)
    wanted = min(max(total - head, 0), sum(sizes[name] for name in body))
    layers = len(body)
    factor = {name: (layers - n + 1) ** 2 + (layers - n + 1) for n, name in enumerate(body, 1)}
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        full = sum(min(1, middle * factor[name]) * sizes[name] for name in body) >= wanted
        low, high = (low, middle) if full else (middle, high)
    shares = {name: min(1, high * factor[name]) for name in body}
    if HEAD_WEIGHT in sizes:
        shares[HEAD_WEIGHT] = (total - sum(shares[name] * sizes[name] for name in body)) / sizes[HEAD_WEIGHT]
    return shares


@given(networks(), RATIOS, st.floats(0, 1))
@settings(max_examples=300)
def test_smart_counts_equal_the_plain_reference(shapes, ratio, head_keep):
    sizes = sizes_of(shapes)
    counts = criteria.smart_counts(sizes, ratio, head_keep)
    assert list(counts) == list(sizes)
    assert all(0 <= counts[name] <= size for name, size in sizes.items())
    assert abs(sum(counts.values()) - (1 - ratio) * sum(sizes.values())) <= 0.5 + 1e-6
    expected = smart_shares(sizes, ratio, head_keep)
    assert all(abs(counts[name] - expected[name] * size) <= 1.51 for name, size in sizes.items())


def test_smart_counts_of_conv4():
    """By hand, at 80 %: 24064 of 120320 stay, the head keeps 2400, and 21664 go to the body by 20 : 12 : 6 : 2.

    20 · 1728 + (12 + 6 + 2) · 36864 = 771840, so the scale is 21664 / 771840 = 0.028068: shares 0.5614, 0.3368, 0.1684
    and 0.0561, none above 1. 970.03, 12416.39, 6208.19 and 2069.40 lack one of 21664 when cut; the largest rest has it.
    """
    assert criteria.smart_counts(CONV4, 0.8) == {
        "conv1": 970,
        "conv2": 12416,
        "conv3": 6208,
        "conv4": 2070,
        HEAD_WEIGHT: 2400,
    }


def test_smart_counts_of_conv4_where_layers_are_full():
    """By hand, at 40 %: 72192 stay, the head keeps 2400, 69792 are the body's.

    Scale 69792 / 771840 = 0.0904 would give the first two layers 1.81 and 1.085: both are full (38592). The other 31200
    are divided 6 : 2 over the last two: 31200 / (8 · 36864) = 0.10579, hence 0.6348 and 0.2116.
    """
    counts = criteria.smart_counts(CONV4, 0.4)
    assert counts == {"conv1": 1728, "conv2": 36864, "conv3": 23400, "conv4": 7800, HEAD_WEIGHT: 2400}


def test_surplus_that_fills_another_layer_goes_on():
    """Only after the first layer's surplus is handed on does the second exceed its size: one pass is not enough."""
    sizes = {"a": 100, "b": 100, "c": 1000}
    # Factors 12, 6, 2: 348 of 1200 stay, 348 / 3800 = 0.0916: a would keep 1.099, b 0.549.
    # With a full, 248 / 2600 = 0.0954.
    assert criteria.smart_counts(sizes, 0.71) == {"a": 100, "b": 57, "c": 191}
    # 600 stay: scale 0.158, a 1.89, b 0.947. With a full, 500 / 2600 = 0.1923: b is 1.154, full too; c has 400.
    assert criteria.smart_counts(sizes, 0.5) == {"a": 100, "b": 100, "c": 400}


@pytest.mark.parametrize(
    "head_keep, ratio, expected", [(0.3, 0.8, 2400), (0.1, 0.8, 800), (0.3, 0.95, 1200), (0, 0.5, 0)]
)
def test_the_head_keeps_what_is_asked_but_at_most_three_times_the_overall_share(head_keep, ratio, expected):
    assert criteria.smart_counts(CONV4, ratio, head_keep)[HEAD_WEIGHT] == expected


def test_ratio_zero_keeps_everything():
    assert criteria.smart_counts(CONV4, 0.0, head_keep=0.1) == CONV4 == criteria.equal_counts(CONV4, 0.0)


@pytest.mark.parametrize("backbone", ["conv4", "resnet12"])
@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9, 0.95, 0.98])
def test_smart_counts_of_the_papers_networks_keep_every_layer(backbone, ratio):
    config = TrainConfig(backbone=backbone, widths=(64,) * 4, image_size=84, channels=3, head="per-class")
    if backbone == "resnet12":
        config = TrainConfig(
            backbone=backbone, widths=(16,) * 3 + (32,) * 3 + (64,) * 3 + (128,) * 3, image_size=84, channels=3,
            head="per-class",
        )  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in seeded_weights(config).items()}
    sizes = {name: math.prod(shapes[name]) for name in maskable(shapes)}
    assert min(criteria.smart_counts(sizes, ratio).values()) > 0 and list(sizes)[-1] == HEAD_WEIGHT


def test_check_layers_names_the_empty_one():
    full, empty = np.ones(3, bool), np.zeros((2, 2), bool)
    assert criteria.check_layers({"a": full}, 0.9).keys() == {"a"}
    with pytest.raises(UserError, match="--ratio 0.999 leaves b without weights") as error:
        criteria.check_layers({"a": full, "b": empty, "c": empty}, 0.999)
    assert "\n" not in str(error.value)
