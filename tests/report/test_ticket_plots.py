"""Pictures and sections of tickets: complete, self-contained, nothing overlaps, and true to the numbers."""

import re

import numpy as np
import pytest
from test_page import check

from gems_edge.models.ticket import Ticket
from gems_edge.report import plots, ticket_plots, ticket_sections
from gems_edge.report.page import Picture, Table, render_page
from gems_edge.tickets import analysis

CONV4 = {f"backbone.blocks.{n}.conv.weight": (8, 3 if n == 0 else 8, 3, 3) for n in range(4)} | {"head.weight": (5, 8)}
RESNET = {f"backbone.blocks.{n}.{layer}.weight": (4, 4, 3, 3)
          for n in range(4) for layer in ("conv1", "conv2", "conv3", "skip")} | {"head.weight": (5, 4)}  # fmt: skip
METHODS = ("mwt", "rr", "rm", "sr", "snip", "omt", "pm", "pmt")

MOBILE = {f"backbone.features.{n}.conv.{layer}.0.weight": (4, 4, 3, 3) for n in range(17) for layer in range(3)}


def masks_of(shapes, ratio, count, seed=0):
    rng = np.random.default_rng(seed)
    common = {name: rng.random(shape) for name, shape in shapes.items()}
    made = []
    for _ in range(count):
        noise = {name: 0.3 * rng.random(shape) for name, shape in shapes.items()}
        made.append({name: common[name] + noise[name] > np.quantile(common[name], ratio) for name in shapes})
    return made


TICKETS = {f"ratio {ratio:.0%}": masks_of(CONV4, ratio, 4) for ratio in (0.2, 0.6, 0.8, 0.9)}
RATIOS = {label: [analysis.layer_ratios(masks) for masks in made] for label, made in TICKETS.items()}
OVERLAPS = {label: analysis.overlap(made) for label, made in TICKETS.items()}
DEEP = {"ratio 80%": analysis.overlap(masks_of(RESNET, 0.8, 3))}
LOOKS = [(500 * n, 1 - 0.4 * float(np.exp(-n / 8))) for n in range(1, 161)]
DISTANCES = {label: (range(500, 2001, 500), analysis.hamming(made)) for label, made in TICKETS.items()}
ACCURACY = {
    method: [{"ratio": ratio, "accuracy": 0.48 - 0.01 * n * ratio, "ci95": 0.008} for ratio in (0.2, 0.8, 0.98)]
    for n, method in enumerate(METHODS)
}
DENSE = {"accuracy": 0.487, "ci95": 0.009}
COSTS = {"mwt": {"60%": 0.78e15, "80%": 0.78e15}, "pmt": {"60%": 0.05e15, "80%": 0.06e15}}
PICTURES = {
    "ratios": lambda: ticket_plots.layer_ratios(RATIOS),
    "ratios of a deep network": lambda: ticket_plots.layer_ratios(
        {"80%": [analysis.layer_ratios(m) for m in masks_of(RESNET, 0.8, 3)]}
    ),
    "overlap": lambda: ticket_plots.overlap_curves(OVERLAPS),
    "overlap of a deep network": lambda: ticket_plots.overlap_curves(DEEP),
    "ratios of many layers": lambda: ticket_plots.layer_ratios(
        {"80%": [analysis.layer_ratios(m) for m in masks_of(MOBILE, 0.8, 2)]}
    ),
    "overlap of many layers": lambda: ticket_plots.overlap_curves({"": analysis.overlap(masks_of(MOBILE, 0.8, 3))}),
    "emergence": lambda: ticket_plots.emergence_curves({"80%": LOOKS, "90%": LOOKS[:20]}),
    "hamming": lambda: ticket_plots.hamming_maps(DISTANCES),
    "accuracy": lambda: ticket_plots.ratio_curves(ACCURACY, DENSE),
    "cost": lambda: ticket_plots.cost_bars(COSTS, "MACs"),
    "cost, log": lambda: ticket_plots.cost_bars(COSTS, "MACs", log=True),
    "watched": lambda: ticket_plots.watched_overlap({"": LOOKS}, 0.95),
    "watched once": lambda: ticket_plots.watched_overlap({"": [(12, 0.97)]}),
}


def texts(markup):
    return [re.sub(r"\s+", " ", text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", markup)]


def figure_of(draw, monkeypatch):
    """The matplotlib figure that `draw` would turn into SVG, laid out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kept = []
    monkeypatch.setattr(ticket_plots, "to_svg", lambda figure: kept.append(figure) or "")
    draw()
    FigureCanvasAgg(kept[0]).draw()
    return kept[0]


@pytest.fixture
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("name", PICTURES)
def test_picture_reads_on_light_and_dark_and_fetches_nothing(name):
    markup = PICTURES[name]()
    assert "#000000" not in markup and "black" not in markup and "currentColor" in markup
    assert len(markup) < 200_000
    check(f"<div>{markup}</div>")


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_overlaps_another_or_a_legend(name, monkeypatch, close_figures):
    from matplotlib.text import Text

    figure = figure_of(PICTURES[name], monkeypatch)
    renderer = figure.canvas.get_renderer()
    drawn = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    tick_range = {
        id(label): axis
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_majorticklabels()
    }
    boxes = []
    for text in drawn:
        axis = tick_range.get(id(text))
        if axis is not None:
            low, high = sorted(axis.get_view_interval())
            place = text.get_position()[0 if axis.axis_name == "x" else 1]
            if not low <= place <= high:
                continue
        corners = text.get_window_extent(renderer)
        if text.get_rotation() % 90 == 0:
            boxes.append((text.get_text(), corners))
    assert len(boxes) > 4
    for index, (one, box) in enumerate(boxes):
        for other, place in boxes[index + 1 :]:
            width = min(box.x1, place.x1) - max(box.x0, place.x0)
            height = min(box.y1, place.y1) - max(box.y0, place.y0)
            assert width < 0.5 or height < 0.5, f"{one!r} and {other!r} overlap"


def test_series_and_layers_are_told_apart_without_colour(monkeypatch, close_figures):
    for name, drawn in (("accuracy", METHODS), ("overlap of a deep network", RESNET)):
        axes = figure_of(PICTURES[name], monkeypatch).axes[0]
        handles, labels = axes.get_legend_handles_labels()
        lines = [getattr(handle, "lines", [handle])[0] for handle in handles]
        looks = {label: (line.get_marker(), str(line._unscaled_dash_pattern)) for line, label in zip(lines, labels)}
        assert set(looks) >= {ticket_plots.layer_label(name) for name in drawn}
        assert len(set(looks.values())) == len(looks)


def test_of_many_layers_some_are_named(monkeypatch, close_figures):
    axes = figure_of(PICTURES["overlap of many layers"], monkeypatch).axes[0]
    lines = axes.get_lines()
    assert len(lines) == len(MOBILE) == len({tuple(line.get_color()) for line in lines})
    assert len(axes.get_legend_handles_labels()[1]) == len(MOBILE) / 3 <= ticket_plots.MOST_NAMES


def luminance(color):
    channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_stand_out_on_both_pages():
    dark = luminance("#1c2126")
    for color in ticket_plots.COLORS:
        assert 1.05 / (luminance(color) + 0.05) > 2.6 and (luminance(color) + 0.05) / (dark + 0.05) > 3


def test_accuracy_is_drawn_at_its_value(monkeypatch, close_figures):
    axes = figure_of(PICTURES["accuracy"], monkeypatch).axes[0]
    handles, labels = axes.get_legend_handles_labels()
    drawn = {label: getattr(handle, "lines", [handle])[0].get_ydata() for handle, label in zip(handles, labels)}
    assert list(drawn["pmt"]) == pytest.approx([100 * entry["accuracy"] for entry in ACCURACY["pmt"]])
    assert list(drawn["dense"]) == pytest.approx([48.7, 48.7])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["20", "80", "98"]


def test_cost_names_its_factor():
    shown = texts(PICTURES["cost"]())
    assert "mwt 780 T MACs" in shown and "pmt 60 T MACs (13× less)" in shown
    assert ticket_plots.times(0.5) == "2× more" and ticket_plots.times(1.001) == "the same"


def test_hamming_panels_share_one_scale(monkeypatch, close_figures):
    figure = figure_of(PICTURES["hamming"], monkeypatch)
    scales = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert scales == {(0, 100 * max(float(distances.max()) for _, distances in DISTANCES.values()))}


def a_ticket(**changes):
    made = {
        "method": "pmt", "unit": "weight", "ratio": 0.8, "masks": masks_of(CONV4, 0.8, 1)[0],
        "model": {"backbone": "conv4", "widths": [8] * 4},
        "found": {"iterations": 1200, "seconds": 33.1, "overlaps": [[12, 0.91], [24, 0.97]], "settled": True,
                  "delta": 0.95, "stable": "max"},
    }  # fmt: skip
    return Ticket(**(made | changes))


def words(section):
    page = render_page("t", [section])
    check(page)
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_section_of_a_ticket():
    ticket = a_ticket()
    text = words(ticket_sections.ticket_section(ticket))
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    first = ticket.masks["backbone.blocks.0.conv.weight"]
    for piece in ("pmt", "80.0%", f"{kept:,}", "1,200", "33.1 s", "settled yes", "δ = 0.95", "0.9700", "stable max",
                  f"blocks.0.conv {int(first.sum())} {first.size} {1 - first.mean():.1%}"):  # fmt: skip
        assert piece in text, piece


def test_section_of_a_ticket_that_says_nothing_of_itself():
    channels = {f"widths.{n}": np.arange(8) < 3 for n in range(4)}
    text = words(ticket_sections.ticket_section(a_ticket(unit="channel", masks=channels, found={}, model={})))
    assert "channels kept 12 counted of 32: 62.5% removed" in text and "overlap" not in text and "settled" not in text
    text = words(ticket_sections.ticket_section(a_ticket(found={"settled": False, "overlaps": []})))
    assert "training ended before" in text


def test_every_analysis_has_picture_and_table():
    for section in (
        ticket_sections.ratios_section(RATIOS),
        ticket_sections.overlap_section(OVERLAPS),
        ticket_sections.emergence_section({"80%": LOOKS}, total=80_000),
        ticket_sections.hamming_section(DISTANCES),
    ):
        kinds = [type(block) for block in section.blocks]
        assert kinds[:2] == [Picture, Table], section.title
        table = section.blocks[1]
        assert table.rows and all(len(row) == len(table.header) for row in table.rows)
        words(section)


def test_numbers_of_the_tables():
    rows = ticket_sections.overlap_section({"a": {"x.weight": [1.0, 0.5], "y.weight": [1.0, 0.25]}}).blocks[1].rows
    assert rows == (("a", "x", "100.0%", "50.0%"), ("a", "y", "100.0%", "25.0%"))
    rows = ticket_sections.ratios_section({"a": [{"x": 0.2}, {"x": 0.4}], "b": [{"x": 0.9}]}).blocks[1].rows
    assert rows == (("x", "30.0% (20.0 … 40.0)", "90.0%"),)
    points = [(500, 0.8), (1000, 0.92), (1500, 0.89), (2000, 0.94), (2500, 0.96)]
    rows = ticket_sections.emergence_section({"a": points}, total=10_000).blocks[1].rows
    assert rows == (("a", "80.0% (500)", "2,000 (20.0%)", "2,500 (25.0%)", "never", "96.0% (2,500)"),)
    distances = np.array([[0, 0.1, 0.3], [0.1, 0, 0.2], [0.3, 0.2, 0]])
    rows = ticket_sections.hamming_section({"a": ((5, 10, 15), distances)}).blocks[1].rows
    assert [row[2:] for row in rows] == [("–", "30.00%"), ("10.00%", "20.00%"), ("20.00%", "0.00%")]


def test_long_tables_are_thinned_and_keep_their_ends():
    section = ticket_sections.ticket_section(a_ticket(found={"overlaps": LOOKS}))
    (table,) = (block for block in section.blocks if isinstance(block, Table) and "overlap" in block.header)
    assert len(table.rows) == 16 and table.rows[0][0] == "500" and table.rows[-1][0] == "80,000"


def test_large_numbers_have_their_letter():
    assert (plots.short(2e12), plots.short(0.78e15), plots.short(3.1e15)) == ("2 T", "780 T", "3.1 P")
