"""What the tests of the board's commands share: the real command line in this process, and a hand-made bundle."""

import sys
from dataclasses import dataclass

import handmade  # noqa: F401
import pytest

from gems_edge.cli.main import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def gems_edge(monkeypatch, capsys, tmp_path):
    """`gems_edge("predict", …)` in an empty directory → Result."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> Result:
        monkeypatch.setattr(sys, "argv", ["gems-edge", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as exit_request:
            code = exit_request.code or 0
        return Result(code, *capsys.readouterr())

    return call


def assert_refused(result: Result, message: str, code: int = 2) -> None:
    """Nothing on stdout, and the last line on stderr says what is wrong; never a traceback."""
    assert result.code == code and result.out == "", result
    assert message in result.err.splitlines()[-1], result.err
    assert result.err.splitlines()[-1].startswith("gems-edge: ") and "Traceback" not in result.err
