"""Harmed files of boards: read as before or refused in one line, soon, in little memory, and nothing else happens.

The same mutations each time; `tools/fuzz.py` tries others, and all kinds of files.
"""

from collections.abc import Iterator

import pytest
from sandbox import Sandbox, sandboxes
from targets import OTHER, REFUSED, SAME, TARGETS, attempt, prepare

pytestmark = pytest.mark.slow(60)

SEED = 17
NUMBERS = {name: 40 for name in ("bundle", "state", "image", "facts", "answers", "config", "profile", "ticket")} | {
    name: 20 for name in ("packed", "run", "checkpoint", "verify", "trust", "exported", "selftest", "installation")
}


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[dict[str, Sandbox]]:
    with sandboxes(tmp_path_factory.mktemp("fuzz")) as sandbox_of_side:
        yield sandbox_of_side


@pytest.mark.parametrize("name", NUMBERS)
def test_harmed_files(name, both, tmp_path):
    target = TARGETS[name]
    sandbox = both[target.side]
    valid = prepare(target, tmp_path / name, sandbox)
    trials = [attempt(valid, sandbox, SEED, number) for number in range(NUMBERS[name])]
    faults = [f"{number}: {trial.what}: {trial.verdict}" for number, trial in enumerate(trials)
              if trial.verdict not in (REFUSED, SAME, OTHER)]  # fmt: skip
    assert not faults, "\n".join(faults)
    assert any(trial.verdict == REFUSED for trial in trials), "nothing was refused: no harm at all"
