"""Finding tickets: each is a small function over three verbs, train, prune and rewind (KDD'22, sections 3 to 5).

To add one: a function here that takes a Search and returns masks, named as the method (channel_NAME where whole
channels are removed), and its row in TICKETS (meta/settings/ticket.py), which also says which weights are trained
afterwards.
"""

from collections.abc import Callable

import numpy as np

from gems_edge.errors import UserError
from gems_edge.meta.settings.ticket import TICKETS
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.ticket import Masks, Ticket, model_of
from gems_edge.tickets import channels, criteria
from gems_edge.tickets.search import SEARCH, Search, dense_run


def mwt(search: Search) -> Masks:
    """Meta winning ticket (Algorithm 1): train, then prune the smallest magnitudes."""
    return search.largest(search.magnitudes(search.trained()))


def rr(search: Search) -> Masks:
    """Random re-initialisation: MWT's masks, to be trained from fresh weights."""
    return mwt(search)


def rm(search: Search) -> Masks:
    """Random masks over all layers."""
    return criteria.random_over_all(search.shapes, search.ticket.ratio, search.random)


def sr(search: Search) -> Masks:
    """Smart ratios: random inside each layer, at ratios that do not depend on the data.

    Behind the first layer the masks are those that pmt draws from the same seed, so only the first layers differ.
    """
    return criteria.random_in_layers(search.shapes, search.smart_counts(), search.random)


def snip(search: Search) -> Masks:
    """SNIP: the weights whose removal would change the meta-objective most, at θ0."""
    return search.largest(search.sensitivity(search.rewound(0)))


def untrained(search: Search) -> Masks:
    """The largest weights of θ0: what a ticket is worth that no training has moved (a control, not in the paper)."""
    return search.largest(search.magnitudes(search.rewound(0)))


def omt(search: Search) -> Masks:
    """MWT's masks behind a first layer that keeps as many weights, at random (section 4.2)."""
    masks, first = mwt(search), search.names[0]
    return masks | {first: criteria.random_like(masks[first], search.random)}


def pm(search: Search) -> Masks:
    """MWT's first layer; behind it as many weights per layer as MWT keeps, at random (section 4.2)."""
    masks = mwt(search)
    return masks | {name: criteria.random_like(masks[name], search.random) for name in search.names[1:]}


def pmt(search: Search) -> Masks:
    """Primary masked ticket (Algorithm 2): train until the first layer's mask settles, then prune at smart ratios.

    The paper leaves the masks behind the first layer open and finds them replaceable (its section 4.2). By default they
    are random; --secondary magnitude takes the largest weights of the moment. After few iterations those are still the
    largest of θ0, and a layer of large weights learns slowly: behind a normalisation, gradients shrink with their size.
    """
    counts, first = search.smart_counts(), search.names[0]
    weights = search.settled(
        lambda weights: criteria.largest_of(criteria.magnitudes({first: weights[first]})[first], counts[first])
    )
    masks = criteria.largest_in_layers(search.magnitudes(weights), counts)
    if search.ticket.secondary == "random":
        masks = criteria.random_in_layers(search.shapes, counts, search.random) | {first: masks[first]}
    return masks


def channel_mwt(search: Search) -> Masks:
    """MWT with channels as the unit: train, then keep the most important channels at the widths that suit them."""
    pruned = channels.prune(FewShotModel(search.spec), search.trained(), search.ticket.ratio, search.ticket.round_to)
    return _by_width(pruned.kept)


def channel_pmt(search: Search) -> Masks:
    """PMT with channels as the unit.

    The widths depend on the ratio alone, as smart ratios do; what has to settle is which channels of the first layer
    are the most important.
    """
    widths, model = search.smart_widths(), FewShotModel(search.spec)

    def most_important(weights: Weights) -> tuple[np.ndarray, ...]:
        on_cpu = {name: tensor.detach().cpu() for name, tensor in weights.items()}
        return channels.kept_channels(channels.channel_importances(model, on_cpu), widths)

    return _by_width(most_important(search.settled(lambda weights: most_important(weights)[0])))


def finder(method: str, unit: str) -> Callable[[Search], Masks]:
    """The function above that finds tickets by `method`, of single weights or of channels."""
    function: Callable[[Search], Masks] = globals()[method if unit == "weight" else f"{unit}_{method}"]
    return function


def find_ticket(search: Search) -> Ticket:
    """The ticket that the settings ask for.

    Raises UserError as `check_search` does, and for a trained network that would lose a whole layer.
    """
    check_search(search)
    settings, method = search.ticket, TICKETS[search.ticket.method]
    masks = finder(settings.method, settings.unit)(search)
    hint = ", or rank inside layers (--scope layer)" if method.ranked else ""
    trained = search.run.directory / SEARCH
    if method.from_trained and settings.rounds == 1 and trained.is_dir():
        hint += f"; what was trained is kept: --dense-run {trained}"
    criteria.check_layers(masks, settings.ratio, hint)
    return Ticket(settings.method, settings.unit, settings.ratio, masks, model_of(search.spec), search.report)


def check_search(search: Search) -> None:
    """What can be known before hours of training.

    Raises UserError for a ratio that leaves a layer empty at smart ratios or has no channel widths, a rewind beyond the
    run, and a dense run that does not fit, is unfinished, or did not keep θ_k.
    """
    settings = search.ticket
    if settings.rewind > search.config.iterations:
        raise UserError(f"--rewind {settings.rewind} lies beyond the run's {search.config.iterations} iterations")
    if settings.dense_run:
        run = dense_run(search.config)
        if settings.rewind:
            run.kept(settings.rewind)
    if settings.unit == "channel":
        channels.check_ratio(search.spec, settings.ratio)
        search.smart_widths()
    elif TICKETS[settings.method].smart_ratios:
        masks = {name: np.ones(count, bool) for name, count in search.smart_counts().items()}
        criteria.check_layers(masks, settings.ratio, ", or give the head less (--head-keep)")


def _by_width(kept: tuple[np.ndarray, ...]) -> Masks:
    return {f"widths.{number}": mask for number, mask in enumerate(kept)}
