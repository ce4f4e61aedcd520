"""gems-edge devices: what is known of each board, with its sources."""

import click

from gems_edge.cli.common import emit, json_option, table


@click.group()
def command():
    """List, show and check device profiles.

    \b
    Example:
      gems-edge devices list
      gems-edge devices show rpi-4b
    """


def _document(profile):
    facts = {
        name: {"value": fact.value, "unit": fact.unit, "source": fact.source} for name, fact in profile.facts.items()
    }
    return {"id": profile.id, "name": profile.name, "updated": profile.updated, "facts": facts}


def _value(fact):
    return f"{fact.value} {fact.unit}".strip()


@command.command("list")
@json_option
def list_command(as_json):
    """The boards that gems-edge has a profile of."""
    from gems_edge.cost.profiles import list_profiles, load_profile

    profiles = [load_profile(device) for device in list_profiles()]
    if as_json:
        emit([_document(profile) for profile in profiles])
        return
    rows = [
        [
            p.id,
            p.name,
            f"{p['cores']} × {p['core']}",
            _value(p.facts["clock"]),
            _value(p.facts["ram"]),
            _value(p.facts["conv_rate_all"]),
        ]
        for p in profiles
    ]
    click.echo(table(rows, ["id", "board", "cores", "clock", "memory", "convolution, all cores"]))


@command.command("show")
@click.argument("device")
@json_option
def show_command(device, as_json):
    """Every fact of the board DEVICE (an id), with its source."""
    from gems_edge.cost.profiles import load_profile

    profile = load_profile(device)
    if as_json:
        emit(_document(profile))
        return
    click.echo(f"{profile.name} ({profile.id}), looked at {profile.updated}")
    click.echo(
        table([[name, _value(fact), fact.source] for name, fact in profile.facts.items()], ["fact", "value", "source"])
    )


@command.command("check")
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False))
@json_option
def check_command(files, as_json):
    """Check profile FILES (.toml), or all that come with gems-edge: units, ranges, a source for every fact."""
    from gems_edge.cost.profiles import list_profiles, load_profile, read_profile

    profiles = [read_profile(file) for file in files] or [load_profile(device) for device in list_profiles()]
    if as_json:
        emit([{"id": profile.id, "facts": len(profile.facts), "ok": True} for profile in profiles])
        return
    for profile in profiles:
        click.echo(f"{profile.id}: {len(profile.facts)} facts in range, each with its source")
