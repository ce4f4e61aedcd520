"""`--shots` of the commands: ranges in training, given numbers in `evaluate`, what bundles say of them."""

import json
import tomllib

import pytest
from small_settings import SMALL

FEW = ("--episodes", "4", "--queries", "3")
ENDS = [1, 2]


@pytest.fixture(scope="module")
def run(cli_here, tmp_path_factory):
    """A run of one or two photos a class."""
    directory = tmp_path_factory.mktemp("shots") / "run"
    cli_here("train", *SMALL, "--widths", "8", "--shots", "1-2", "--iterations", "4", "-o", directory)
    return directory


@pytest.fixture(scope="module")
def bundle(run, cli_here):
    path = run.parent / "a.gems"
    cli_here("export", run, "--ratio", "0", "--steps", "2", "--episodes", "3", "-o", path)
    return path


def evaluated(cli_here, subject, *options):
    return json.loads(cli_here("evaluate", subject, *FEW, *options, "--json").stdout)


def test_config_toml_holds_the_range_and_resume_knows_it(run, cli_here):
    assert tomllib.loads((run / "config.toml").read_text())["shots"] == "1-2"
    assert "shots = '1-2', not 2" in cli_here("train", "--resume", "--shots", "2", "-o", run, code=2).stderr


def test_a_range_is_tested_at_both_ends(run, cli_here):
    document = evaluated(cli_here, run)
    assert document["shots"] == 1 and [each["shots"] for each in document["by_shots"]] == ENDS
    for each in document["by_shots"]:
        alone = evaluated(cli_here, run, "--shots", str(each["shots"]))
        assert "by_shots" not in alone and each.items() <= alone.items()
    assert document["accuracy"] == document["by_shots"][0]["accuracy"]
    said = cli_here("evaluate", run, *FEW).stdout
    assert "5-way 1-shot and 2-shot, 4 episodes of each" in said and said.splitlines()[1].startswith("shots")


def test_unequal_numbers_of_photos(run, bundle, cli_here):
    for subject in (run, bundle):
        document = evaluated(cli_here, subject, "--shots", "3,1,1,2,1")
        assert document["shots"] == [3, 1, 1, 2, 1] and "by_shots" not in document


def test_a_bundle_is_of_the_most_photos_and_names_the_least(run, bundle, cli_here):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["least_shots"], manifest["shots"]) == (1, 2)
    assert manifest["cost"]["adapt_step"]["dims"]["images"] == 5 * 2
    tested = manifest["accuracy"]["support"]
    assert tested["shots"] == 1 and [each["shots"] for each in tested["by_shots"]] == ENDS
    assert [each["shots"] for each in evaluated(cli_here, bundle)["by_shots"]] == ENDS


@pytest.mark.parametrize("shots", ["1-5", "0", "2,0,1,1,1", "many", "2,1"])
def test_evaluate_refuses(run, cli_here, shots):
    said = cli_here("evaluate", run, *FEW, "--shots", shots, code=2).stderr.splitlines()
    assert len(said) == 1 and said[0].startswith(f"gems-edge: --shots {shots}")


@pytest.mark.parametrize("shots", ["5-1", "0-2", "1,2", ""])
def test_train_refuses(cli_here, tmp_path, shots):
    said = cli_here("train", "--shots", shots, "-o", tmp_path / "run", code=2).stderr.splitlines()
    assert len(said) == 1 and said[0].startswith(f"gems-edge: --shots {shots}") and not (tmp_path / "run").exists()
