"""What a prediction and a gradient step cost on a Cortex-A72 must not creep up: counted, not timed."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from count_instructions import BUNDLES, RECORD, count, verdict
from debian import Unavailable

KEPT = json.loads(RECORD.read_text())["counts"]


@pytest.fixture(scope="module")
def counted(root, bundle):
    """Each bundle's counts, and those of the first once more."""
    try:
        made = [bundle(name) for name in BUNDLES]
        with ThreadPoolExecutor(2) as pool:
            *counts, again = pool.map(lambda path: count(root, path), [*made, made[0]])
    except Unavailable as reason:
        pytest.skip(str(reason))
    return dict(zip(BUNDLES, counts)), again


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", BUNDLES)
def test_no_count_rises_and_no_gain_goes_unrecorded(counted, name):
    lines = verdict(name, counted[0][name], KEPT.get(name, {}))
    assert not lines, "\n".join(lines)


@pytest.mark.slow(20)
def test_counts_are_exact_from_run_to_run(counted):
    counts, again = counted
    assert again == next(iter(counts.values()))


@pytest.mark.slow(20)
def test_fewer_channels_cost_fewer_instructions(counted):
    wide, narrow = counted[0].values()
    assert all(narrow[what] < 0.7 * wide[what] for what in wide)


def test_a_change_beyond_the_tolerance_is_told_either_way():
    kept = {"predict": 1_000_000, "adapt_step": 10_000_000}
    assert verdict("b", {"predict": 1_019_000, "adapt_step": 9_810_000}, kept) == []
    (risen,) = verdict("b", {"predict": 1_021_000, "adapt_step": 10_000_000}, kept)
    assert "1,000,000 to 1,021,000" in risen and "+2.1%" in risen and "--write" in risen
    (fallen,) = verdict("b", {"predict": 1_000_000, "adapt_step": 9_700_000}, kept)
    assert "keep the gain" in fallen
    assert len(verdict("new", kept, {})) == 2
