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
def bundle(cli_here, tmp_path_factory) -> Callable[[str], Path]:
    """`bundle(name)`: one of those that count_instructions counts, a real one of seeded weights, made once."""
    place = tmp_path_factory.mktemp("bundles")

    def made(name: str) -> Path:
        *commands, path = bundle_commands(name, place)
        if not path.exists():
            for command in commands:
                cli_here(*command)
        return path

    return made
