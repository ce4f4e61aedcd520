"""The command line in this process, and tiny trainings of tickets, each done once."""

import pytest
from ticket_runs import DENSE, OPTIONS, TINY

from gems_edge.meta.run import Run


@pytest.fixture(scope="session")
def gems(cli_here):
    """`gems("train", …)`: stdout of the command line in this process, or stderr if `code`, its exit code, is not 0."""

    def call(*arguments, code=0):
        result = cli_here(*arguments, code=code)
        return result.stdout if code == 0 else result.stderr

    return call


@pytest.fixture(scope="session")
def trained(gems, made_once):
    """`trained("mwt")`: that run of OPTIONS, trained once."""

    def run(name: str) -> Run:
        options = [run("dense").directory if option == DENSE else option for option in OPTIONS[name]]
        return Run(made_once(f"tickets/{name}", lambda directory: gems("train", *TINY, *options, "-o", directory)))

    return run
