"""Fixtures that several rooms share: the command line, one glyph cache, a small trained run and its bundle, runs on two
image sets; and the order of tests."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from gems_runs import OPTIONS, TWO_SETS
from hypothesis import HealthCheck, settings
from image_sets import write_image_sets
from made_once import MadeOnce
from small_settings import EXPORT, SMALL

SHARED = Path(__file__).parents[2] / "shared"

# A busy machine is no failure: nothing in hypothesis looks at the clock.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of many slow seconds first: begun last, one worker would run them while the others have nothing to do.

    Workers take files in the order of the items, with --no-loadscope-reorder.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        if slow := item.get_closest_marker("slow"):
            seconds[item.path] += slow.args[0]
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images beside the repository; tests that want them are skipped without."""
    if not (SHARED / "data" / "omniglot.npz").exists():
        pytest.skip("../shared/data with the real image sets is not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, request) -> Iterator[MadeOnce]:
    """`made_once(name, make)`: a file or directory that all workers of this session share; look, don't touch."""
    own = tmp_path_factory.getbasetemp()
    is_worker = hasattr(request.config, "workerinput")  # its environment says so too, but to its children as well
    shared = MadeOnce((own.parent if is_worker else own) / "made-once")
    yield shared
    shared.check_untouched()


@pytest.fixture(scope="session")
def environment(made_once) -> dict[str, str]:
    """For child processes: a cache for the session, so that glyphs are rendered once, and one thread each."""
    cache = made_once.directory / "cache"
    cache.mkdir(parents=True, exist_ok=True)
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
def cli_here(environment) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """As `cli`, in this process, because a process of its own spends most of its time importing torch."""
    import torch

    def call(*arguments, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
            patch.setenv("MPLCONFIGDIR", environment["GEMS_EDGE_CACHE"])
            if cwd is not None:
                patch.chdir(cwd)
            ended = _call_main(patch, arguments)
        assert ended == code, f"exit code {ended}\n{out.getvalue()}\n{err.getvalue()}"
        if code == 2:
            said = [line for line in err.getvalue().splitlines() if not line.startswith("find ticket ")]
            assert len(said) == 1, err.getvalue()
        return subprocess.CompletedProcess(arguments, ended, out.getvalue(), err.getvalue())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield call
    torch.set_num_threads(threads)


def _call_main(patch: pytest.MonkeyPatch, arguments: Sequence[object]) -> int:
    """gems-edge's exit code."""
    from gems_edge.cli.main import main

    patch.setattr(sys, "argv", ["gems-edge", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="session")
def image_sets(environment, made_once) -> Path:
    """A directory with the image sets of tests/image_sets.py as NAME.npz: `--data ink,tint --data-root` it."""

    def make(directory: Path) -> None:
        directory.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GEMS_EDGE_CACHE", environment["GEMS_EDGE_CACHE"])
            write_image_sets(directory)

    return made_once("image-sets", make)


@pytest.fixture(scope="session")
def two_set_run(cli_here, image_sets, made_once) -> Callable[[str], Path]:
    """`two_set_run("bmp")`: a tiny run of that method on ink and tint, trained once; look, don't touch."""

    def run(method: str) -> Path:
        options = (*TWO_SETS, *OPTIONS.get(method, ()), "--data-root", image_sets, "--method", method)
        return made_once(f"two-sets/{method}", lambda directory: cli_here("train", *options, "-o", directory))

    return run


@pytest.fixture(scope="session")
def small_run(cli_here, made_once) -> Path:
    """A run of SMALL, trained once; look, don't touch: `own_small_run` is a copy to write to."""
    return made_once("small", lambda run: cli_here("train", *SMALL, "--iterations", "60", "-o", run))


@pytest.fixture
def own_small_run(small_run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(small_run, tmp_path_factory.mktemp("own") / "small"))


@pytest.fixture(scope="session")
def exported(cli_here, small_run, made_once) -> Path:
    """small/, a copy of the small run, and small.gems, which it was exported to, after recovery."""

    def make(directory: Path) -> None:
        run = shutil.copytree(small_run, directory / "small")
        cli_here("export", run, *EXPORT, "-o", directory / "small.gems")

    return made_once("exported", make)


@pytest.fixture(scope="session")
def small_bundle(exported) -> Path:
    return exported / "small.gems"
