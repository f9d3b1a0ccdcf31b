"""How many images keep their answer under a transformation."""

from matplotlib.figure import Figure

from symlearn.report.found_reading import Found
from symlearn.report.plots.measured_symmetries import AFTER
from symlearn.report.plots.style import INK, message_figure, new_figure, note, tidy
from symlearn.report.reading import Report, finite
from symlearn.report.wording import percent

TITLE = "Measured: whose answer stays"


def kept_answers(found: Found, report: Report | None = None) -> Figure:
    """A bar a transformation: the share of images whose answer stays; a mark where so many are right.

    The line is the share that is right of images as they are.

    Returns:
        A figure whose label gives the shares; of a regression, or without measurements, one that says so.
    """
    symmetries = found.get("symmetries")
    if not symmetries or not symmetries["network"]["same"]:
        why = (found.get("skipped") or {}).get("symmetries", "the network's outputs are no classes")
        return message_figure(TITLE, report, str(why))
    network = symmetries["network"]
    names = [m["name"] for m in symmetries["motions"] if m["name"] in network["same"]]
    words = {m["name"]: m["words"] for m in symmetries["motions"]}
    figure = new_figure(1.7 + 0.42 * len(names), TITLE, report)
    axes = figure.subplots()
    tidy(axes, "x")
    same = [100 * float(network["same"][name]) for name in names]
    axes.barh(range(len(names)), same, color=AFTER, height=0.62)
    for at, name in enumerate(names):
        right = finite(network["accuracy"].get(name))
        if right is not None:
            axes.plot(100 * right, at, marker="D", color="white", markeredgecolor=INK, markersize=6)
        axes.annotate(
            percent(network["same"][name]),
            (max(same[at], 100 * (right or 0.0)), at),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=INK,
            weight="bold",
        )
    unmoved = finite(network.get("accuracy_unmoved"))
    if unmoved is not None:
        axes.axvline(100 * unmoved, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(range(len(names)), [words[name] for name in names], fontsize=9.5, color=INK)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"% of {symmetries['answer_images']} {symmetries['set']} images", fontsize=9.5, color=INK)
    note(figure, "bar: the answer stays   ◇ the answer is right   dashed: right, images as they are")
    told = ", ".join(f"{words[name]} {percent(network['same'][name])}" for name in names)
    figure.set_label(f"{TITLE}: {told}")
    return figure
