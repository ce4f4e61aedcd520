"""A bit here and there of every file of a bundle, a state and a run; `tools/fuzz.py --bits` flips them all."""

import pytest
from bits import READS, flips
from valid import VALID

pytestmark = pytest.mark.slow(20)

STEPS = {"bundle": 499, "state": 97, "run": 997, "checkpoint": 997}


@pytest.mark.parametrize("target", READS)
def test_a_flipped_bit_is_refused_or_without_effect(target, tmp_path):
    VALID[target](tmp_path)
    place = sorted(path for path in tmp_path.iterdir() if path.is_dir())[0]
    tried = list(flips(place, target, STEPS[target]))
    assert len(tried) > 30 and not [each for each in tried if each[2]]
