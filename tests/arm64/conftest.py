"""The arm64 userland, once a session, and bundles for it; skipped, saying why, where it cannot be had."""

from collections.abc import Callable
from pathlib import Path

import pytest
from count_instructions import bundle_commands
from debian import Unavailable
from userland import userland


@pytest.fixture(scope="session")
def root() -> Path:
    try:
        return userland()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def bundle(cli_here, made_once) -> Callable[[str], Path]:
    """`bundle(name)`: one of those that count_instructions counts, a real one of seeded weights, made once."""

    def made(name: str) -> Path:
        def make(directory: Path) -> None:
            directory.mkdir()
            train, export, _ = bundle_commands(name, directory)
            cli_here(*train)
            cli_here(*export)

        file = bundle_commands(name, Path())[-1]
        return made_once(f"counted-{file.stem}", make) / file.name

    return made
