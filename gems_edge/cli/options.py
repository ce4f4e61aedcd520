"""Click options from the fields of TrainConfig: a setting is named, described and checked in one place."""

from dataclasses import fields, replace

import click

from gems_edge.errors import UserError
from gems_edge.meta.config import TrainConfig


def config_options(command):
    """Adds one option per field; use with `given_config`."""
    for item in reversed(fields(TrainConfig)):
        name, choices = item.name.replace("_", "-"), item.metadata["choices"]
        if isinstance(item.default, bool):
            kind: dict = {"is_flag": True, "default": None}
        else:
            kind = {"type": click.Choice(choices) if choices else type(item.default), "default": None}
        help_text = f"{item.metadata['help']}  [default: {item.default}]"
        command = click.option(f"--{name}", item.name, help=help_text, **kind)(command)
    return command


def given_config(base: TrainConfig, options: dict) -> TrainConfig:
    """`base` with the options that were given on the command line."""
    config = replace(base, **{name: value for name, value in options.items() if value is not None})
    if "," in config.data and not config.data.startswith(("folder:", "packed:")):
        raise UserError(f"--data {config.data}: training on several image sets at once is not built yet; give one")
    return config
