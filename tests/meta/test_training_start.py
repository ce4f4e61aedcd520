"""What a training refuses to start from, in one line and before anything is computed or written."""

import shutil
from dataclasses import replace

import pytest
import torch
from small_photos import write_kinds
from small_settings import SMALL

from gems_edge.errors import UserError
from gems_edge.meta import train
from gems_edge.meta.run import Run
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.meta.start import resolve

OPTIONS = (*SMALL, "--widths", "8", "--iterations", "2", "--normalization", "group")


@pytest.fixture(scope="module")
def plain(cli_here, made_once):
    return made_once("training-start/plain", lambda run: cli_here("train", *OPTIONS, "-o", run))


@pytest.fixture
def file(plain, tmp_path):
    return shutil.copy(plain / "weights.safetensors", tmp_path / "body.safetensors")


def test_fresh_weights_are_no_pretrained_ones(file, cli_here, tmp_path):
    options = (*OPTIONS, "--init", file, "--ticket", "rr", "-o", tmp_path / "run")
    assert "--ticket rr draws every weight anew; leave --init out" in cli_here("train", *options, code=2).stderr
    assert not (tmp_path / "run").exists()


def test_another_file_is_not_the_one_that_settings_were_made_with(plain, file, cli_here, tmp_path):
    options = ("--learn-from", "all", "--steps", "1")
    cli_here("train", *OPTIONS, *options, "--init", file, "-o", tmp_path / "run")
    again = ("train", "--config", tmp_path / "run" / "config.toml", "-o")
    cli_here(*again, tmp_path / "same")
    shutil.copy(plain / "last" / "checkpoint.safetensors", tmp_path / "other.safetensors")
    shutil.copy(tmp_path / "run" / "weights.safetensors", file)
    assert "is another file than these settings were made with" in cli_here(*again, tmp_path / "new", code=2).stderr
    assert not (tmp_path / "new").exists()
    cli_here(*again, tmp_path / "new", "--init", file)
    cli_here("train", "--resume", "-o", tmp_path / "run")  # has its start with it


def test_weights_for_colour_stay_so_when_they_are_known(monkeypatch, plain, cli_here, tmp_path):
    """Of a config.toml that has their SHA-256, too."""
    config = (plain / "config.toml").read_text()
    config = config.replace('init = "random"', 'init = "pretrained"').replace('"conv4"', '"resnet18"')
    config += f'[pretrained]\nsha256 = "{"0" * 64}"\n[pretrained.pixels]\nmean = [0.5]\ndeviation = [0.5]\n'
    (tmp_path / "config.toml").write_text(config)
    options = ("--config", tmp_path / "config.toml", "--widths", "full", "--image-size", "64", "-o", tmp_path / "run")
    assert "the weights read colour, the images are grey" in cli_here("train", *options, code=2).stderr


def test_other_settings_are_refused_before_any_feature_is_computed(cli_here, tmp_path, monkeypatch):
    cli_here("train", *OPTIONS, "--learn-from", "blocks.2", "-o", tmp_path / "run")
    monkeypatch.setattr(train, "Trainer", None)
    result = cli_here("train", "--resume", "--lr", "0.5", "-o", tmp_path / "run", code=2)
    assert "was started with lr = 0.001, not 0.5" in result.stderr


def test_a_search_takes_what_a_dense_run_was_trained_to(cli_here, tmp_path):
    """Not what --keep-general made of it."""
    options = (*OPTIONS, "--keep-general", "0.5")
    cli_here("train", *options, "-o", tmp_path / "dense")
    run = Run(tmp_path / "dense")
    drawn = {name: torch.zeros_like(weight) for name, weight in run.weights().items()}
    run.save_drawn(run.trained(), drawn)
    ticket = ("--ticket", "mwt", "--ratio", "0.5", "--scope", "layer", "--dense-run", tmp_path / "dense")
    cli_here("train", *options, "--keep-general", "0", *ticket, "-o", tmp_path / "ticket")
    found = Run(tmp_path / "ticket")
    for name, mask in found.ticket(found.config()).masks.items():
        weights = run.trained()[name].abs()
        assert mask.any() and weights[torch.from_numpy(~mask)].max() <= weights[torch.from_numpy(mask)].min(), name
    cli_here("train", *options, "--ticket", "mwt", "--ratio", "0.5", "-o", tmp_path / "both")
    assert not Run(tmp_path / "both" / "search").config().keep_general


def test_unreadable_images_are_left_out_where_the_run_says_so(tmp_path):
    """And its images are found again as they were: the config has the choice."""
    write_kinds(tmp_path / "photos", 9, 3)
    bad = sorted((tmp_path / "photos").rglob("*.*"))[4]
    bad.write_bytes(b"no image")
    config = TrainConfig(data=(f"folder:{tmp_path / 'photos'}",), widths=(8,), image_size=28)
    with pytest.raises(UserError, match=f"{bad.name} is not an image.*--skip-bad"):
        resolve(config)
    with pytest.warns(UserWarning, match=f"left out: .*{bad.name}"):
        resolved, images = resolve(replace(config, skip_bad=True))
    assert len(images.images) == 26 and resolved.skip_bad
