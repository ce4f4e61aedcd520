"""The command line in this process, and tiny trainings of tickets, each done once."""

import contextlib
import io
import sys

import pytest
import torch
from ticket_runs import DENSE, OPTIONS, TINY

from gems_edge.cli.main import main
from gems_edge.meta.run import Run


@pytest.fixture(scope="session")
def gems(environment):
    """`gems("train", …)`: the command line in this process, because a process of its own spends most of its time importing
    torch. `code` is the exit code that it must have."""

    def call(*arguments, code=0):
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
        return out.getvalue() if code == 0 else err.getvalue()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield call
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(gems, tmp_path_factory):
    """`trained("mwt")`: that run of OPTIONS, trained once."""
    place = tmp_path_factory.mktemp("tickets")

    def run(name: str) -> Run:
        directory = place / name
        if not directory.exists():
            options = [run("dense").directory if option == DENSE else option for option in OPTIONS[name]]
            gems("train", *TINY, *options, "-o", directory)
        return Run(directory)

    return run
