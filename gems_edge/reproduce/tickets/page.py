"""The page of `reproduce tickets`: what is done of a paper's tables and figures, beside what the paper says."""

from collections.abc import Mapping
from typing import Any

from gems_edge.data.specs import specs_text
from gems_edge.meta.settings.run import TrainConfig
from gems_edge.report.page import Block, Note
from gems_edge.reproduce import page as pages
from gems_edge.reproduce.results import COSTS, factor
from gems_edge.reproduce.tickets import paper, plan, tables
from gems_edge.reproduce.tickets.claims import RULES, accuracy_claims, cost_claims
from gems_edge.reproduce.tickets.masks import mask_sections, untrained_shares
from gems_edge.reproduce.tickets.plan import TicketRow, TicketRows
from gems_edge.reproduce.tickets.protocol import ONE_START, PAPER, TicketPreset, TicketSetup

SOURCE = "Gao et al., Finding Meta Winning Ticket to Train Your MAML, KDD 2022."
PAGE = pages.PaperPage(SOURCE, RULES, "removed", notes=paper.READINGS, advice=paper.ADVICE)

TicketStudy = pages.Study[TicketPreset, TicketSetup]


def reproduce(study: TicketStudy) -> pages.Reproduction:
    """Everything that is known, as sections of a page and as a document."""
    rows = study.all_rows
    claims = accuracy_claims(rows) + cost_claims(rows, untrained_shares(rows, study.directory))
    accuracies, costs, figures = [], [], []
    for part in study.parts:
        kind, _, number = part.partition(" ")
        part_rows = study.rows(part)
        if part == plan.CONTROLS:
            figures += tables.control_sections(part_rows)
        elif kind != "figure":
            accuracies += [tables.accuracy_section(part_rows, setup) for setup in part_rows.setups]
            own_totals = study.preset.name == PAPER.name
            costs += [tables.cost_section(part_rows, setup, own_totals) for setup in part_rows.setups]
        elif int(number) not in plan.MASKS:
            figures += tables.curve_sections(int(number), part_rows)
        else:
            drawn, checked = mask_sections(int(number), study.preset, part_rows, study.directory)
            figures, claims = figures + drawn, claims + checked
    order = [setup.label for setup in rows.setups]
    claims.sort(key=lambda claim: order.index(claim.setup))
    # Who asks for Table 2 or 3 asks for costs; the accuracies stand on the page.
    answered = accuracies if plan.ACCURACY in study.parts else []
    return pages.reproduction(
        study, PAGE, claims, shown=[*accuracies, *costs, *figures], printed=[*answered, *costs, *figures],
        how=_how(study), row_document=lambda row: _row_document(rows, row),
    )  # fmt: skip


def _how(study: TicketStudy) -> list[Block]:
    blocks: list[Block] = []
    for setup in study.all_rows.setups:
        alike = [s for s in PAPER.setups if (s.row, s.config.backbone) == (setup.row, setup.config.backbone)]
        theirs = _settings(alike[0], alike[0].config) if alike else {}
        config = study.resolved([trial for trial in study.trials if trial.setup == setup], setup.config)
        title = tables.title_of(setup)
        blocks.append(pages.settings_table(_settings(setup, config), theirs, f"the paper's {setup.row}", title))
    tickets = ("tickets of one network (figures 6, 7, 9 to 11, 14, 15)", str(study.preset.tickets))
    about = (
        "PMT can stop after two looks at the earliest, so γ and δ bound what it can save. δ, l, γ's share of the run "
        "and the masks behind the first layer are ours: the paper does not give them."
    )
    return [*blocks, pages.conditions_table(study.preset, tickets), Note(about)]


def _settings(setup: TicketSetup, config: TrainConfig) -> dict[str, str]:
    ticket = setup.ticket
    pmt = f"γ = {ticket.interval}, l = {ticket.queue}, δ = {ticket.delta:g}, {ticket.stable} of the queue"
    return {
        "data": setup.data_name if config.data == TrainConfig.data else specs_text(config.data),
        **pages.recipe(config),
        "method": config.method,
        "PMT": f"{pmt}; behind the first layer: {ticket.secondary}",
    }


def _row_document(rows: TicketRows, row: TicketRow) -> Mapping[str, Any]:
    mwt, shared = rows.find(row.setup, "mwt", row.ratio, plan.start(row.variant)), row.variant == ONE_START
    factors = {name: spread.as_dict() for name in COSTS if (spread := factor(mwt, row, name))}
    return {
        "variant": "" if shared else row.variant, "setup": row.setup.name, "ratio": row.ratio, "shared_init": shared,
        "accuracy": row.accuracies_document(), "cost": row.costs_document(COSTS), "times_less_than_mwt": factors,
    }  # fmt: skip
