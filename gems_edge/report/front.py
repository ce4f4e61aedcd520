"""The front of a family of bundles: what accuracy costs on each board."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gems_edge.report.page import Estimate, Note, Picture, Section, Table
from gems_edge.report.plots import BLUE, GREY, INK, accuracies, subplots, to_svg
from gems_edge.wording import accuracy_text, interval_text, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = {"predict": "predict, 1 image", "adapt": "learn, all steps", "memory": "peak memory"}


def front_sections(points: Sequence[Mapping[str, Any]]) -> list[Section]:
    """`points`: of each bundle name, ratio, widths, normalization, accuracy {accuracy, ci95} and boards: id → quantity
    → {value, interval, unit}."""
    mode = points[0]["normalization"]
    header = ("bundle", "weights gone", "widths", f"accuracy ({mode}), %")
    rows = [
        (p["name"], f"{100 * p['ratio']:.1f} %", ", ".join(map(str, p["widths"])), accuracy_text(p["accuracy"]))
        for p in points
    ]
    sections = [Section("Bundles", (Table(header, tuple(rows), numeric=frozenset({1, 3})),))]
    for board in points[0]["boards"]:
        sections.append(Section(board, (Picture(_front(points, board)), _costs(points, board))))
    if not points[0]["boards"]:
        sections.append(Section("Boards", (Note("Name boards with --device to see what each bundle takes there."),)))
    return sections


def on_front(points: Sequence[Mapping[str, Any]], board: str, quantity: str) -> list[int]:
    """The points that no other one beats in both accuracy and cost, cheapest first."""
    cost = [point["boards"][board][quantity]["value"] for point in points]
    gain = [point["accuracy"]["accuracy"] for point in points]
    order = sorted(range(len(points)), key=lambda i: (cost[i], -gain[i]))
    front: list[int] = []
    for i in order:
        if not front or gain[i] > gain[front[-1]]:
            front.append(i)
    return front


def _front(points: Sequence[Mapping[str, Any]], board: str) -> str:
    figure, panels = subplots(1, len(QUANTITIES), width=9.2, height=3.1)
    for axes, (quantity, title) in zip(panels, QUANTITIES.items()):
        costs = [point["boards"][board][quantity] for point in points]
        _draw_front(axes, points, costs, on_front(points, board, quantity))
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
        axes.set_xlabel(f"{costs[0]['unit']}, predicted")
        axes.set_xlim(left=0)
    panels[0].set_ylabel("accuracy, %")
    return to_svg(figure)


def _draw_front(
    axes: "Axes", points: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]], front: Sequence[int]
) -> None:
    """The points with their intervals in both directions, and a line through those on the front."""
    gains, halves = accuracies([point["accuracy"] for point in points])
    axes.plot([costs[i]["value"] for i in front], [gains[i] for i in front], color=BLUE, linewidth=1.4)
    for index, (point, cost) in enumerate(zip(points, costs)):
        value, (low, high) = cost["value"], cost["interval"]
        axes.errorbar(
            value, gains[index], halves[index], [[max(0, value - low)], [max(0, high - value)]],
            color=BLUE if index in front else GREY, marker="o", markersize=4, capsize=2, linewidth=0.9,
        )  # fmt: skip
        text, at = f"{point['ratio']:.2f}", (value, gains[index])
        axes.annotate(text, at, (4, 4), textcoords="offset points", fontsize=8, color=INK)


def _costs(points: Sequence[Mapping[str, Any]], board: str) -> Table:
    def cell(cost: Mapping[str, Any]) -> Estimate:
        return Estimate(f"{number_text(cost['value'])} {cost['unit']}", interval_text(*cost["interval"]), "predicted")

    rows = tuple((p["name"], *(cell(p["boards"][board][quantity]) for quantity in QUANTITIES)) for p in points)
    caption = points[0]["boards"][board]["predict"]["source"]
    return Table(("bundle", *QUANTITIES.values()), rows, caption)
