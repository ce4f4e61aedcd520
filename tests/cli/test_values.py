"""What the command line's text stands for, and how config.toml holds it."""

import tomllib

import click
import pytest

from gems_edge.cli import values
from gems_edge.cli.common import FiniteRange
from gems_edge.cli.main import group
from gems_edge.errors import UserError
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import TrainConfig, read_config, write_config


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (values.WIDTHS, "full", ()),
        (values.WIDTHS, "32", (32,)),
        (values.WIDTHS, "32, 32,48,64", (32, 32, 48, 64)),
        (values.DATA_WEIGHTS, "", ()),
        (values.DATA_WEIGHTS, "2,0.5", (2.0, 0.5)),
        (values.SPARSITY, "learned", ()),
        (values.SPARSITY, "0,0.9", (0.0, 0.9)),
        (values.KEPT, "", Kept()),
        (values.KEPT, "500, every:1000,0", Kept((500, 0), (1000,))),
        (values.IMAGE_SETS, "glyphs, packed:no.npz", ("glyphs", "packed:no.npz")),
        (values.ONE_IMAGE_SET, "glyphs", "glyphs"),
    ],
)
def test_text_becomes_a_value(kind, text, value):
    assert kind.convert(text, None, None) == value == kind.convert(value, None, None)


@pytest.mark.parametrize(
    "kind, text",
    [
        (kind, text)
        for kind in (values.WIDTHS, values.DATA_WEIGHTS, values.SPARSITY)
        for text in ("x", "1,,2", ",", "1,x")
    ]
    + [(values.WIDTHS, "1.5"), (values.WIDTHS, ""), (values.SPARSITY, ""), (values.ONE_IMAGE_SET, "glyphs,omniglot")]
    + [(values.KEPT, text) for text in ("nonsense", "every:0", "-1", "every:", "1.5", "²")],
)
def test_other_text_is_refused_in_one_line(kind, text):
    with pytest.raises(UserError, match="write|give") as error:
        kind.convert(text, None, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kept, iterations",
    [
        (Kept(), set()),
        (Kept((3, 9)), {3, 9}),
        (Kept(every=(4,)), {0, 4, 8}),
        (Kept((3,), (5, 4)).also(7), {0, 3, 4, 5, 7, 8}),
    ],
)
def test_kept_iterations(kept, iterations):
    assert {iteration for iteration in range(10) if iteration in kept} == iterations


def test_config_toml_holds_arrays_and_numbers(tmp_path):
    config = TrainConfig(
        data=("ink", "packed:/a,b.npz"), data_weights=(2.0, 1.0), widths=(8, 8, 6, 4), keep=Kept((5,), (10,)),
        method="mmsup", adapter=AdapterConfig(sparsity=(0.5,)),
    )  # fmt: skip
    write_config(tmp_path / "config.toml", config)
    stored = tomllib.loads((tmp_path / "config.toml").read_text())
    assert (stored["data"], stored["data_weights"], stored["widths"]) == (
        ["ink", "packed:/a,b.npz"],
        [2.0, 1.0],
        [8, 8, 6, 4],
    )
    assert (
        stored["keep"] == {"at": [5], "every": [10]}
        and stored["adapter"]["sparsity"] == [0.5]
        and "ticket" not in stored
    )
    assert read_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    "line, message",
    [
        ('widths = "8,8,6,4"', "widths is '8,8,6,4'; it must be an array"),
        ('widths = ["8"]', "widths is '8'; it must be of type int"),
        ("keep = 5", "keep is 5; it must be a table"),
        ("[keep]\nevery = [0]", r"every \[0\] 1 or more"),
        ("[adapter]\nsparsity = [2]", "--sparsity 2"),
        ("[adapter]\nkeep = 1", r"\[adapter\]: unknown setting 'keep'"),
        ("wdths = 1", "unknown setting 'wdths'; known are data, "),
    ],
)
def test_other_config_is_refused(tmp_path, line, message):
    (tmp_path / "config.toml").write_text(line)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "config.toml")


def test_numbers_beyond_64_bits_are_refused():
    with pytest.raises(UserError, match="--seed is 1000000000000000000000; it must be below"):
        TrainConfig(seed=10**21)


def test_a_config_that_lost_its_images_is_refused(tmp_path):
    write_config(tmp_path / "a.toml", TrainConfig())
    (tmp_path / "a.toml").write_text((tmp_path / "a.toml").read_text().replace('    "glyphs",\n', ""))
    with pytest.raises(UserError, match="data is empty; name the images"):
        read_config(tmp_path / "a.toml")


ABSURD = {
    "iterations": "from 0 to 1000000000", "ways": "from 2 to 10000", "train_ways": "from 0 to 1000000",
    "queries": "from 1 to 10000", "steps": "from 0 to 10000", "meta_batch": "from 1 to 10000",
    "views": "from 1 to 1000", "validation_episodes": "from 2 to 1000000", "widths": "from 1 to 16384",
    "width_multiplier": "from 0 to 16",
}  # fmt: skip


@pytest.mark.parametrize("name", [*ABSURD, "shots", "image_size", "channels"])
def test_absurd_settings_are_refused_with_their_range(cli_here, tmp_path, name):
    """Before memory is taken, and before anything is written."""
    options = ("--augment", "light") if name == "views" else ()
    result = cli_here("train", "--" + name.replace("_", "-"), 2**40, *options, "-o", tmp_path / "run", code=2)
    wanted = {"shots": "from 1 to 10000", "image_size": "use 8 to", "channels": "use 1 (greyscale) or 3"}
    assert (ABSURD | wanted)[name] in result.stderr and not (tmp_path / "run").exists()
    if name in ABSURD:
        value = {"widths": (2**40,), "width_multiplier": 2.0**40}.get(name, 2**40)
        with pytest.raises(UserError, match=ABSURD[name]):
            TrainConfig(**{name: value})


@pytest.mark.parametrize("option", ["--episodes", "--ways", "--shots", "--queries", "--steps"])
def test_absurd_evaluations_are_refused(cli_here, tmp_path, option):
    assert option in cli_here("evaluate", tmp_path, option, 2**40, code=2).stderr


def _options(command, name=""):
    """Of all commands: the command's words and an option."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            yield from _options(command.get_command(context, word), f"{name} {word}")
    yield from ((name, option) for option in command.params)


def _is_endless(option):
    """A seed may be any, and what goes back farther than is kept is refused by itself."""
    if isinstance(option.type, click.IntRange):
        return option.type.max is None and option.name not in ("seed", "undo")
    return isinstance(option.type, click.FloatRange) and not isinstance(option.type, FiniteRange)


def test_every_number_of_the_command_line_has_ends():
    """The settings of a run have ranges of their own."""
    assert not [f"{name} {option.opts[0]}" for name, option in _options(group) if _is_endless(option)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--iterations", 2**40), ("export", "run", "--steps", 2**40), ("adapt", "b.gems", "--threads", 2**40),
        ("teach", "b.gems", "s.state", "--keep", 2**40), ("reproduce", "gems", "--jobs", 2**40),
        ("demo", "--ratio", "nan"), ("export", "run", "--max-latency-ms", "inf"), ("install", "b", "--worse", "nan"),
    ],
)  # fmt: skip
def test_absurd_options_are_refused(cli_here, arguments):
    stderr = cli_here(*arguments, code=2).stderr
    assert arguments[-2] in stderr and ("is not in the range" in stderr or "is not a finite number" in stderr)
