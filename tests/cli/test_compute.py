"""--device is a board in every command, --compute is where torch runs."""

import pytest


@pytest.mark.parametrize("command", [("train", "-o", "run"), ("evaluate", "run")])
def test_device_in_a_command_without_boards_names_compute(cli_here, command):
    assert "--compute says where torch runs" in cli_here(*command, "--device", "cuda", code=2).stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "export"])
def test_every_command_that_runs_torch_takes_compute(cli_here, command):
    assert "--compute [auto|cpu|cuda]" in cli_here(command, "--help").stdout
