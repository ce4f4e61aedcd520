"""gems-edge reproduce gems on the preset tiny. Cells are processes; the command is this one."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow(8)

TINY = ("reproduce", "gems", "--preset", "tiny", "--jobs", "2")


def options(sets) -> list[str]:
    """glyphs and the turned ones are trained, the tinted ones are only tested."""
    return [part for name, path in sets.items() for part in ("--data", f"{name}=packed:{path}")]


def done(directory: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(directory / "cells")) for path in directory.glob("cells/*/*/result.json"))


METHODS = [part for name in ("maml", "multi-maml", "bmp", "mmsup") for part in ("--method", name)]


@pytest.fixture(scope="module")
def grid(cli_here, sets, tmp_path_factory) -> tuple[Path, str, str]:
    """Tables 1 and 2, and what the command that made them printed."""
    directory = tmp_path_factory.mktemp("gems") / "tiny"
    result = cli_here(*TINY, *options(sets), *METHODS, "-o", directory)
    return directory, result.stdout, result.stderr


def test_trains_and_writes(grid):
    directory, stdout, stderr = grid
    assert stderr.startswith("5 cells, 0 done, 2 at a time\n") and "[5/5] " in stderr
    mixed = [f"glyphs+turned/{method}-s1" for method in ("bmp", "maml", "mmsup")]
    assert done(directory) == [*mixed, "glyphs/maml-s1", "turned/maml-s1"]
    document = json.loads((directory / "results.json").read_text())
    assert document["parts"] == ["table 1", "table 2"] and document["cells"]["missing"] == []
    rows = {row["method"]: row for row in document["rows"]}
    assert list(rows) == ["maml", "multi-maml", "bmp", "mmsup"]
    for row in rows.values():
        assert set(row["accuracy"]) == {"glyphs", "turned", "tinted"}
        assert all("transductive" in modes for modes in row["accuracy"].values())
        assert row["time"]["cpu_seconds"]["mean"] > 0
    single = [
        json.loads((directory / "cells" / f"{name}/maml-s1/result.json").read_text()) for name in ("glyphs", "turned")
    ]
    spent = sum(one["training"]["cpu_seconds"] for one in single)
    assert rows["multi-maml"]["time"]["cpu_seconds"]["mean"] == pytest.approx(spent)
    assert "Table 2, cross-domain: trained on glyphs + turned" in stdout and "Multi-MAML  tinted" in stdout
    # One training each decides no claim about accuracies.
    assert {claim["verdict"] for claim in document["claims"]} == {"not decided"}


def test_what_was_adapted_is_on_the_page(grid):
    directory, *_ = grid
    result = json.loads((directory / "cells" / "glyphs+turned" / "bmp-s1" / "result.json").read_text())
    assert result["layers"] == [*(f"blocks.{n}" for n in range(4)), "head"]
    choice = result["choices"]["tinted"]
    assert [len(row) for row in choice["mask"]] == [5, 5] and len(choice["rate"]) == 2
    subnets = json.loads((directory / "cells" / "glyphs+turned" / "mmsup-s1" / "result.json").read_text())
    assert list(subnets["overlap"]) == ["glyphs|turned", "glyphs|tinted", "turned|tinted"]
    assert all(0 <= share <= 1 for shares in subnets["overlap"].values() for share in shares)
    page = (directory / "report.html").read_text()
    assert "What BMP adapts: trained on glyphs + turned" in page and "Not trained on: tinted" in page
    assert page.count("<svg ") == 2


def test_a_second_call_trains_nothing(cli_here, grid, sets):
    directory, *_ = grid
    before = {path: path.stat().st_mtime_ns for path in directory.glob("cells/**/*")}
    again = cli_here(*TINY, *options(sets), *METHODS, "--table", "1", "-o", directory, "--json")
    assert again.stderr == "5 cells, all done\n"
    assert json.loads(again.stdout)["parts"] == ["table 1"]
    assert {path: path.stat().st_mtime_ns for path in directory.glob("cells/**/*")} == before


def test_ablations_share_cells_and_report_what_is_missing(cli_here, grid, sets):
    directory, *_ = grid
    result = cli_here(*TINY, *options(sets), "--table", "3", "--table", "4", "--report-only", "-o", directory)
    assert result.stderr == "9 cells, 2 done\n"
    lines = [line.split() for line in result.stdout.splitlines()]
    assert any(line[:2] == ["0.5", "–"] for line in lines) and any(line[:2] == ["S3", "–"] for line in lines)
    assert "not done" in result.stdout


def test_ablations_are_trained(cli_here, grid, sets):
    """After the first tests of `grid`: cells come into its directory."""
    directory, *_ = grid
    result = cli_here(*TINY, *options(sets), "--table", "3", "--method", "mmsup", "-o", directory)
    assert "3 cells, 1 done" in result.stderr and "Table 3, fixed sparsity" in result.stdout
    cell = json.loads((directory / "cells/glyphs+turned/mmsup-sparsity0.9-s1/result.json").read_text())
    assert set(cell["accuracy"]) == {"glyphs", "turned"}
    keep = cell["choices"]["glyphs"]["keep"][0]
    assert keep == pytest.approx([0.1] * 5, abs=1e-3) and cell["overlap"] == {"glyphs|turned": [1.0] * 5}


def test_under_torchrun(cli_here, sets, tmp_path):
    cell = ("--table", "1", "--method", "bmp", "--processes", "2")
    cli_here("reproduce", "gems", "--preset", "tiny", *options(sets)[:2], *cell, "-o", tmp_path / "grid")
    assert done(tmp_path / "grid") == ["glyphs+turned/bmp-s1"]


def test_other_settings_are_refused(cli_here, grid, sets):
    directory, *_ = grid
    result = cli_here(*TINY, "--data", f"turned=packed:{sets['turned']}", "-o", directory, code=2)
    assert "holds another grid: test.tinted is given only there" in result.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "needs two sets of images or more"),
        (["--preset", "small", "--data", "mini=glyphs"], "the preset small has grocery"),
        (["--preset", "paper"], "add --data cub200=packed:FILE.npz --data vgg102="),
        (["--table", "6", "--data", "a=glyphs"], "called glyphs"),
        (["--table", "6", "--data", "a=folder:a"], "tables 1 to 5"),
        (["--table", "2", "--data", "a=folder:a"], "give one more set of images"),
        (["--data", "a=folder:nowhere"], "does not exist"),
        (["--data", "a"], "write NAME=SPEC"),
        (["--data-root", "nowhere"], "is not a directory"),
        (["--data", "a=folder:a", "--method", "mmaml"], "choose from maml, multi-maml"),
        (["--data", "a=folder:a", "--report-only"], "holds no reproduction"),
    ],
)
def test_bad_input_writes_nothing(cli_here, tmp_path, arguments, words):
    result = cli_here("reproduce", "gems", "--preset", "tiny", *arguments, "-o", tmp_path / "out", code=2)
    assert words in result.stderr and not (tmp_path / "out").exists()
