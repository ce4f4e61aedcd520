"""gems-edge demo: the whole path in its own processes, and once more in the same directory."""

import json

import pytest


@pytest.mark.slow(60)
def test_the_demo_ends_with_a_page_and_can_be_repeated(cli, tmp_path):
    small = ("--iterations", "6", "--episodes", "3", "-o", tmp_path / "demo", "--json")
    for _ in range(2):
        document = json.loads(cli("demo", *small).stdout)
        page = tmp_path / "demo" / "report.html"
        assert document["report"] == str(page) and page.stat().st_size > 10_000
        assert len(document["predict"]) == 30 and document["adapt"]["images"] == 5
        assert 0 <= document["evaluate_bundle"]["accuracy"] <= 1


def test_a_file_in_the_way_is_named(cli_here, tmp_path):
    (tmp_path / "demo").write_text("")
    assert "is a file; choose another directory" in cli_here("demo", "-o", tmp_path / "demo", code=2).stderr
