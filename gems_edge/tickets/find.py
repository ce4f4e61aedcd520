"""Finding tickets: each is a small function over three verbs, train, prune and rewind (KDD'22, sections 3 to 5)."""

from collections.abc import Callable

import numpy as np

from gems_edge.errors import UserError
from gems_edge.models.fewshot import FewShotModel, Weights
from gems_edge.models.ticket import Masks, Ticket, model_of
from gems_edge.tickets import channels, criteria
from gems_edge.tickets.search import SEARCH, Search, dense_run

# Masks and the weights that the sparse training starts from (before masking).
Found = tuple[Masks, Weights]


def mwt(search: Search) -> Found:
    """Meta winning ticket (Algorithm 1): train, prune the smallest magnitudes, rewind to θ_k."""
    masks = search.largest(criteria.magnitudes(search.trained()))
    return masks, search.rewound(search.ticket.rewind)


def rr(search: Search) -> Found:
    """Random re-initialisation: MWT's mask, fresh weights."""
    return search.largest(criteria.magnitudes(search.trained())), search.reinitialised()


def rm(search: Search) -> Found:
    """Random mask over all layers, θ0."""
    return criteria.random_over_all(search.shapes, search.ticket.ratio, search.random), search.rewound(0)


def sr(search: Search) -> Found:
    """Smart ratio: random inside each layer at the data-independent ratios, θ0.

    Behind the first layer the masks are those that pmt draws from the same seed: the two differ in the first layer alone.
    """
    return criteria.random_in_layers(search.shapes, search.smart_counts(), search.random), search.rewound(0)


def snip(search: Search) -> Found:
    """SNIP: the weights whose removal would change the meta-objective most, at θ0."""
    start = search.rewound(0)
    return search.largest(search.sensitivity(start)), start


def omt(search: Search) -> Found:
    """MWT's masks behind a first layer that keeps as many weights, at random (section 4.2)."""
    masks, start = mwt(search)
    first = search.names[0]
    return masks | {first: criteria.random_of(masks[first].shape, int(masks[first].sum()), search.random)}, start


def pm(search: Search) -> Found:
    """MWT's first layer; behind it as many weights a layer as MWT keeps, at random (section 4.2)."""
    masks, start = mwt(search)
    first, *others = search.names
    drawn = {name: criteria.random_of(masks[name].shape, int(masks[name].sum()), search.random) for name in others}
    return {first: masks[first], **drawn}, start


def pmt(search: Search) -> Found:
    """Primary masked ticket (Algorithm 2): train until the first layer's mask settles, prune at smart ratios, θ0.

    The paper leaves the masks behind the first layer open and finds them replaceable (its section 4.2), so they are random;
    or else the largest weights of the moment. After few iterations those are the largest of θ0, and a layer of large weights
    alone learns slowly: behind a normalisation its gradients shrink with their size.
    """
    counts, first = search.smart_counts(), search.names[0]
    weights = search.settled(
        lambda weights: criteria.largest_of(criteria.magnitudes({first: weights[first]})[first], counts[first])
    )
    masks = criteria.largest_in_layers(criteria.magnitudes(weights), counts)
    if search.ticket.secondary == "random":
        masks = criteria.random_in_layers(search.shapes, counts, search.random) | {first: masks[first]}
    return masks, search.rewound(0)


def channel_mwt(search: Search) -> Found:
    """MWT with channels as the unit: train, keep the most important channels at the widths that suit them, θ_k."""
    pruned = channels.prune(
        FewShotModel(search.spec), search.trained(), search.ticket.ratio, round_to=search.ticket.round_to
    )
    return _named(pruned.kept), search.rewound(search.ticket.rewind)


def channel_pmt(search: Search) -> Found:
    """PMT with channels as the unit: widths known beforehand from the ratio alone, as smart ratios are; the watch looks
    at which channels of the first layer are the most important."""
    widths, model = search.smart_widths(), FewShotModel(search.spec)

    def kept(weights: Weights) -> tuple[np.ndarray, ...]:
        plain = {name: tensor.detach().cpu() for name, tensor in weights.items()}
        return channels.kept_channels(channels.channel_importances(model, plain), widths)

    weights = search.settled(lambda weights: kept(weights)[0])
    return _named(kept(weights)), search.rewound(0)


FINDERS: dict[tuple[str, str], Callable[[Search], Found]] = {
    **{("weight", finder.__name__): finder for finder in (mwt, rr, rm, sr, snip, omt, pm, pmt)},
    ("channel", "mwt"): channel_mwt,
    ("channel", "pmt"): channel_pmt,
}


def find_ticket(search: Search) -> tuple[Ticket, Weights]:
    """The ticket that the settings ask for, and the weights to train it from.

    Raises UserError as `check_search` does, and for a trained network that would lose a whole layer.
    """
    check_search(search)
    config = search.ticket
    masks, weights = FINDERS[config.unit, config.method](search)
    trained = search.run.directory / SEARCH
    hint = "" if config.method == "rm" else ", or rank inside layers (--scope layer)"
    if config.needs_trained and config.rounds == 1 and trained.is_dir():
        hint += f"; what was trained is kept: --dense-run {trained}"
    criteria.check_layers(masks, config.ratio, hint)
    ticket = Ticket(config.method, config.unit, config.ratio, masks, model_of(search.spec), search.found)
    return ticket, search.start_of(ticket, weights)


def check_search(search: Search) -> None:
    """What can be known before hours of training: UserError for a ratio that leaves a layer empty at smart ratios or has
    no channel widths, a rewind beyond the run, a dense run that does not fit, is unfinished, or did not keep θ_k."""
    config = search.ticket
    if config.rewind > search.config.iterations:
        raise UserError(f"--rewind {config.rewind} lies beyond the run's {search.config.iterations} iterations")
    if config.dense_run:
        run = dense_run(search.config)
        if config.rewind:
            run.kept(config.rewind)
    if config.unit == "channel":
        channels.check_ratio(search.spec, config.ratio)
        search.smart_widths()
    elif config.method in ("sr", "pmt"):
        counts = search.smart_counts()
        masks = {name: np.ones(count, bool) for name, count in counts.items()}
        criteria.check_layers(masks, config.ratio, ", or give the head less (--head-keep)")


def _named(kept: tuple[np.ndarray, ...]) -> Masks:
    return {f"widths.{number}": mask for number, mask in enumerate(kept)}
