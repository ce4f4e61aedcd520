"""Fixtures that several rooms share: the real command line, one glyph cache, one small trained run and its bundle, runs on
two image sets."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gems_runs import OPTIONS, TWO_SETS
from image_sets import write_image_sets
from small_settings import SMALL

SHARED = Path(__file__).parents[2] / "shared"


# What takes minutes comes first: begun last, one worker would run it alone. Workers take files in the order of the items
# (--no-loadscope-reorder; xdist's own order begins with the files of most tests).
LONGEST = ("tests/test_readme.py", "tests/arm64/", "tests/test_install.py", "tests/test_bench_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((at for at, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=place)


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
def cli_here(environment) -> Callable[..., subprocess.CompletedProcess]:
    """As `cli`, in this process, because a process of its own spends most of its time importing torch."""
    import torch

    from gems_edge.cli.main import main

    def call(*arguments, code: int = 0) -> subprocess.CompletedProcess:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
            patch.setenv("MPLCONFIGDIR", environment["GEMS_EDGE_CACHE"])
            patch.setattr(sys, "argv", ["gems-edge", *map(str, arguments)])
            ended = 0
            try:
                main()
            except SystemExit as end:
                ended = end.code
        assert ended == code, f"exit code {ended}\n{out.getvalue()}\n{err.getvalue()}"
        if code == 2:
            said = [line for line in err.getvalue().splitlines() if not line.startswith("find ticket ")]
            assert len(said) == 1, err.getvalue()
        return subprocess.CompletedProcess(arguments, ended, out.getvalue(), err.getvalue())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield call
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def image_sets(environment, tmp_path_factory) -> Path:
    """A directory with the image sets of tests/image_sets.py as NAME.npz: `--data ink,tint --data-root` it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
        return write_image_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="session")
def two_set_run(cli_here, image_sets, tmp_path_factory) -> Callable[..., Path]:
    """`two_set_run("bmp")`: a tiny run of that method on ink and tint, trained once; look, don't touch."""
    place = tmp_path_factory.mktemp("two-sets")

    def run(method: str) -> Path:
        if not (place / method).exists():
            options = (*TWO_SETS, *OPTIONS.get(method, ()), "--data-root", image_sets, "--method", method)
            cli_here("train", *options, "-o", place / method)
        return place / method

    return run


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
