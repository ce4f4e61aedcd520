"""A few kills and power cuts of adapt and data pack; `tools/kill_writers.py` does more, and every writer."""

from random import Random

import pytest
from kills import cut_power, kill, prepare, some_states
from writers import WRITERS

pytestmark = pytest.mark.slow(40)

# How many kills and power cuts.
TIMES = {"adapt": (12, 40), "pack": (6, 20)}


@pytest.mark.parametrize("name", TIMES)
def test_old_or_new_is_there(name, tmp_path):
    ready = prepare(WRITERS[name], tmp_path / name)
    kills, states = TIMES[name]
    faults = [kill(ready, tmp_path / "work", Random(f"17 {name} {number}")) for number in range(kills)]
    faults += [cut_power(ready, tmp_path / "work", state) for state in some_states(ready, states)]
    assert not any(faults), "\n".join(filter(None, faults))
