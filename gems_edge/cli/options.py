"""Click options from the fields of TrainConfig and its nested tables: a setting is named and described in one place."""

from collections.abc import Iterable
from dataclasses import Field, replace
from typing import Any

import click

from gems_edge.cli import values
from gems_edge.cli.common import Command
from gems_edge.data.specs import specs_text
from gems_edge.errors import UserError
from gems_edge.meta.augment import NONE
from gems_edge.meta.rules.registry import owners_of
from gems_edge.meta.settings.adapter import AdapterConfig
from gems_edge.meta.settings.base import option_name, settings_of
from gems_edge.meta.settings.kept import Kept
from gems_edge.meta.settings.run import AUTO, TrainConfig, normalization_of
from gems_edge.meta.settings.ticket import TicketConfig
from gems_edge.models.network_file import NO_FILE
from gems_edge.models.pretrained import NO_PRETRAINED, RANDOM

# Parameters of the nested tables' options begin with these, so that no two settings share a name.
TICKET, ADAPTER = "ticket_", "adapter_"
# How the settings that are no plain number, word or choice are written.
_TYPES = {
    "data": values.IMAGE_SETS,
    "data_weights": values.DATA_WEIGHTS,
    "widths": values.WIDTHS,
    "keep": values.KEPT,
    "shots": values.SHOTS,
    "sparsity": values.SPARSITY,
}


def config_options(command: Command) -> Command:
    """Adds one option per setting of a run; use with `given_config`."""
    return _options(ticket_options(_options(command, AdapterConfig, ADAPTER)), TrainConfig, "")


def ticket_options(command: Command) -> Command:
    """Adds one option per setting of a ticket."""
    return _options(command, TicketConfig, TICKET)


def _options(command: Command, settings: type, prefix: str) -> Command:
    for item in reversed(settings_of(settings)):
        help = f"{item.metadata['help']}  [default: {_shown_default(item)}]"
        is_flag = isinstance(item.default, bool)
        kind = None if is_flag else _type_of(item)
        command = click.option(
            option_name(item), prefix + item.name, help=help, type=kind, is_flag=is_flag, default=None
        )(command)
    return command


def _type_of(item: Field[Any]) -> "click.ParamType[Any] | type":
    if choices := item.metadata["choices"]:
        return click.Choice(choices)
    return _TYPES.get(item.name, type(item.default))


def _shown_default(item: Field[Any]) -> str:
    if item.default in ("", (), Kept()):
        return str(item.metadata["empty"])
    return specs_text(TrainConfig.data) if item.name == "data" else str(item.default)


def given_config(base: TrainConfig, options: dict[str, Any]) -> TrainConfig:
    """`base` with the options that were given on the command line."""
    options = {name: value for name, value in options.items() if value is not None}
    ticket, adapter = _taken(options, TICKET), _taken(options, ADAPTER)
    if "backbone" in options:
        options["backbone_file"] = NO_FILE  # that of the base belongs to its own backbone
    if "width_multiplier" in options or options.get("backbone", base.backbone) != base.backbone:
        options.setdefault("widths", ())  # so do its widths
    if "init" in options or "backbone" in options:
        options["pretrained"] = NO_PRETRAINED
    if "init" in options and base.normalization == normalization_of(base.init):
        options.setdefault("normalization", AUTO)
    random_now = options.get("init", base.init) == RANDOM != base.init
    if random_now or options.get("backbone", base.backbone) != base.backbone:
        options.setdefault("learn_from", "")  # a trunk of random weights would stay random
    if options.get("augment") == NONE:
        options.setdefault("views", TrainConfig.views)
    config = replace(base, **options, ticket=replace(base.ticket, **ticket), adapter=replace(base.adapter, **adapter))
    if config.dense and ticket.keys() - {"method"}:
        odd = next(item for item in settings_of(TicketConfig) if item.name in ticket and item.name != "method")
        raise UserError(f"{option_name(odd)} belongs to a ticket; add --ticket mwt, pmt, … or leave it out")
    _check_adapter(config, adapter)
    return config


def _check_adapter(config: TrainConfig, changed: Iterable[str]) -> None:
    """UserError for a setting of the adapter that this method would not heed."""
    options = {item.name: option_name(item) for item in settings_of(AdapterConfig)}
    for name in changed:
        if name not in config.rule.settings:
            owners = owners_of(name)
            raise UserError(
                f"{options[name]} belongs to {' or '.join(owners)}; add --method {owners[0]}, or leave it out"
            )
        if name in ("keep_share", "lr") and config.adapter.sparsity:
            raise UserError(f"{options[name]} is of no use with a fixed --sparsity; leave one of the two out")


def _taken(options: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The options of a nested table, taken out of `options`."""
    return {name.removeprefix(prefix): options.pop(name) for name in list(options) if name.startswith(prefix)}
