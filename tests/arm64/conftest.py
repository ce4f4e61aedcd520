"""The arm64 userland with the board package in it, once a session; skipped, saying why, where it cannot be had."""

import shutil
from pathlib import Path

import pytest
from debian import Unavailable
from userland import install_board_package, userland


@pytest.fixture(scope="session")
def root() -> Path:
    try:
        return userland()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def home(root, small_bundle, tmp_path_factory) -> Path:
    """A board's home as a user leaves it: ~/env with gems-edge, a bundle, photos to teach and photos to tell apart."""
    home = tmp_path_factory.mktemp("board") / "pi"
    home.mkdir()
    install_board_package(root, home)
    shutil.copytree(small_bundle, home / "small.gems")
    return home
