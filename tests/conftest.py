"""Fixtures that several rooms share: the real command line, one glyph cache, one small trained run and its bundle."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_settings import SMALL

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images beside the repository; tests that want them are skipped without."""
    if not (SHARED / "data" / "omniglot.npz").exists():
        pytest.skip("../shared/data with the real image sets is not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """For child processes: the glyphs are rendered once a session, and one thread each."""
    cache = tmp_path_factory.mktemp("cache")
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    return inherited | {"GEMS_EDGE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def cli(environment) -> Callable[..., subprocess.CompletedProcess]:
    """`cli("train", …)` runs gems-edge in its own process; `code` is the exit code that it must have."""

    def call(*arguments, code: int = 0, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "gems_edge", *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment | changes, cwd=cwd, timeout=300
        )
        assert result.returncode == code, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, result.stderr
        if code == 2:
            assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        return result

    return call


@pytest.fixture(scope="session")
def small_run(cli, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "small"
    cli("train", *SMALL, "--iterations", "60", "-o", run)
    return run


@pytest.fixture(scope="session")
def small_bundle(cli, small_run, tmp_path_factory) -> Path:
    bundle = tmp_path_factory.mktemp("bundles") / "small.gems"
    cli("export", small_run, "--ratio", "0.6", "--recover-iterations", "10", "--episodes", "10", "-o", bundle)
    return bundle
