"""Click options from the fields of TrainConfig and TicketConfig: a setting is named, described and checked in one place."""

from dataclasses import replace

import click

from gems_edge.errors import UserError
from gems_edge.meta.config import TrainConfig
from gems_edge.meta.settings import option_name, settings_of
from gems_edge.meta.ticket_config import TicketConfig

# Parameters of the ticket's options begin with this, so that no two settings share a name.
TICKET = "ticket_"


def config_options(command):
    """Adds one option per setting of a run; use with `given_config`."""
    return _options(ticket_options(command), TrainConfig, "")


def ticket_options(command):
    """Adds one option per setting of a ticket."""
    return _options(command, TicketConfig, TICKET)


def _options(command, settings: type, prefix: str):
    for item in reversed(settings_of(settings)):
        choices = item.metadata["choices"]
        if isinstance(item.default, bool):
            kind: dict = {"is_flag": True, "default": None}
        else:
            kind = {"type": click.Choice(choices) if choices else type(item.default), "default": None}
        shown = "none" if item.default == "" else item.default
        command = click.option(
            option_name(item), prefix + item.name, help=f"{item.metadata['help']}  [default: {shown}]", **kind
        )(command)
    return command


def given_config(base: TrainConfig, options: dict) -> TrainConfig:
    """`base` with the options that were given on the command line."""
    given = {name: value for name, value in options.items() if value is not None}
    ticket = {name.removeprefix(TICKET): given.pop(name) for name in list(given) if name.startswith(TICKET)}
    config = replace(base, **given, ticket=replace(base.ticket, **ticket))
    if config.ticket.method == "none" and ticket.keys() - {"method"}:
        odd = next(item for item in settings_of(TicketConfig) if item.name in ticket and item.name != "method")
        raise UserError(f"{option_name(odd)} belongs to a ticket; add --ticket mwt, pmt, … or leave it out")
    if "," in config.data and not config.data.startswith(("folder:", "packed:")):
        raise UserError(f"--data {config.data}: training on several image sets at once is not built yet; give one")
    return config
