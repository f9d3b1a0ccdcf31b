"""The figures: what is written and drawn in them, and that they become PNGs without a warning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from pictures import rendered

from symlearn.report import plots

Make = Callable[..., dict[str, Any]]


def texts(figure: Figure) -> list[str]:
    """Every text of a figure, tick labels and legends included."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def xs(line: Line2D) -> np.ndarray:
    """A line's places, `[points]`."""
    return np.atleast_1d(np.asarray(line.get_xdata(), dtype=float))


def ys(line: Line2D) -> np.ndarray:
    """A line's values, `[points]`."""
    return np.atleast_1d(np.asarray(line.get_ydata(), dtype=float))


@pytest.mark.slow
def test_every_figure_renders_and_says_what_it_shows(
    search_report: dict[str, Any], search_metrics: list[dict[str, Any]]
) -> None:
    figures = plots.run_figures(search_report, search_metrics)
    assert list(figures) == [
        "effective-dimension",
        "removals",
        "layer-shares",
        "proposals",
        "evidence",
        "prior-precisions",
    ]
    for name, figure in figures.items():
        assert rendered(figure).startswith(b"\x89PNG"), name
        assert "digits, quadrant: f-fc + conv" in (figure.get_suptitle() or ""), name
        assert len(str(figure.get_label())) > 40, f"{name} has no description: {str(figure.get_label())!r}"


def test_a_run_with_nothing_measured_says_so(map_report: dict[str, Any]) -> None:
    row = {"epoch": 1, "train_loss": 0.3, "train_accuracy": None, "log_marginal_likelihood": float("nan")}
    figures = plots.run_figures(map_report, [row])
    for name, figure in figures.items():
        assert rendered(figure).startswith(b"\x89PNG"), name
    said = {name: " ".join(texts(figure)) for name, figure in figures.items()}
    assert "no effective parameters were computed" in said["layer-shares"]
    assert "no proposals were tried (selection: none)" in said["proposals"]
    assert "no prior precisions were recorded" in said["prior-precisions"]
    assert "no accuracy was recorded" in said["evidence"]
    assert "no epoch was recorded" in " ".join(texts(plots.evidence_curve([])))


def test_heat_map_annotates_marks_and_hatches(search_report: dict[str, Any]) -> None:
    figure = plots.effective_dimension_heat_map(search_report)
    written = texts(figure)
    assert {"94 %\nγ 1,204", "6 %\nγ 40.2", "0 %\nγ 0.2", "100 %\nγ 61.3"} <= set(written)
    assert written.count("absent") == 3
    assert written.count("shifts") == 4 and written.count("none") == 1
    assert "linear   γ 211 of 4,160 parameters" in written
    cells = figure.axes[0].findobj(Rectangle)
    assert sum(bool(cell.get_hatch()) for cell in cells) == 3
    outlines = [cell for cell in cells if not cell.get_fill() and cell.get_linewidth() > 1]
    assert [(round(cell.get_x() + 0.5), round(cell.get_y() + 0.5)) for cell in outlines] == [
        (1, 0), (1, 1), (1, 2), (1, 3), (0, 4),
    ], "column and row of each layer's effective type"  # fmt: skip
    assert "Layers 0–3 became convolutional" in str(figure.get_label())


@pytest.mark.parametrize("depth", [1, 8, 30])
@pytest.mark.parametrize(
    "paths", [["conv"], ["fc", "s-fc", "conv", "gconv-p4:depthwise-separable", "gconv-c6"]]
)
def test_heat_map_has_a_cell_for_every_layer_and_path(
    depth: int, paths: list[str], make_layer: Make, make_report: Make
) -> None:
    named = dict.fromkeys(paths, (100, 10.0))
    figure = plots.effective_dimension_heat_map(
        make_report([make_layer(i, named) for i in range(depth)], paths)
    )
    cells = [text for text in texts(figure) if text.startswith(f"{100 // len(paths)} %")]
    assert len(cells) == depth * len(paths)
    width, height = figure.get_size_inches()
    assert width <= 10 and 2 < height < 15
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 > -0.1 and box.x1 < width + 0.1, (
        f"{box.x0:.2f} to {box.x1:.2f} of {width} inches: text is cut off"
    )


def test_switched_off_path_is_blank_not_hatched(make_layer: Make, make_report: Make) -> None:
    report = make_report([make_layer(0, {"f-fc": (100, 0.1), "conv": (100, 0.2)})], ["f-fc", "conv"])
    figure = plots.effective_dimension_heat_map(report)
    assert "not asked" in texts(figure) and "absent" not in texts(figure)


def test_removals_heat_map(search_report: dict[str, Any], map_report: dict[str, Any]) -> None:
    figure = plots.removals_heat_map(search_report)
    written = texts(figure)
    assert {"−1,204\n[−1,208, −1,200]", "−410\n[−414, −406]", "+0.5\n[−3.5, +4.5]"} <= set(written)
    assert written.count("the only one left") == 3 and written.count("never kept") == 2
    assert written.count("shifts") == 4 and written.count("none") == 1
    cells = [c for c in figure.axes[0].findobj(Rectangle) if not c.get_fill() and c.get_linewidth() > 1]
    assert len(cells) == 6, "one needed path in four layers, two in the last"
    assert rendered(figure).startswith(b"\x89PNG")
    assert "no path was tried without" in " ".join(texts(plots.removals_heat_map(map_report)))


def test_layer_shares_stack_to_gamma(search_report: dict[str, Any]) -> None:
    figure = plots.layer_shares(search_report)
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    tops: dict[float, float] = {}
    for bar in bars:
        place = round(bar.get_x() + bar.get_width() / 2, 2)
        tops[place] = max(tops.get(place, 0.0), bar.get_y() + bar.get_height())
    assert list(tops.values()) == pytest.approx([61.5, 402.0, 655.1, 801.4, 1244.2, 211.4, 388.0])
    assert {"1,244", "97 %", "head 2"} <= set(texts(figure))
    orange = [bar for bar in bars if to_hex(bar.get_facecolor()) == plots.path_colour("f-fc").lower()]
    assert [bar.get_height() for bar in orange] == pytest.approx([0.2, 1204.0])
    assert figure.axes[0].get_ylim()[1] > 1244


def test_proposals_have_a_panel_a_round_and_mark_what_was_kept(search_report: dict[str, Any]) -> None:
    figure = plots.proposals(search_report)
    written = texts(figure)
    assert [axes.get_title() for axes in figure.axes] == ["round 1", "round 2"]
    assert "+1,640" in written and "Δ log evidence [nats]" in written
    assert {"add", "remove", "kept", "90 % interval", "f-fc", "conv"} <= set(written)
    assert "nats per training example" in written
    ends = [ys(line)[-1] for line in figure.axes[1].lines if len(np.atleast_1d(xs(line))) == 2]
    assert {-20.5, 3.1, -8.0, -31.7, -410.0} <= set(map(float, ends))
    assert "10 proposals" in str(figure.get_label()) and "add f-fc in layer 4 (+1,640 nats)" in str(
        figure.get_label()
    )


def test_proposals_over_many_decades_are_drawn_on_a_symmetric_log_axis(
    search_report: dict[str, Any], make_proposal: Make
) -> None:
    far = [
        make_proposal(1, at, "add", "f-fc", delta, False)
        for at, delta in enumerate((2.0, -54_000.0, 30.0, -4.0))
    ]
    del search_report["train_examples"]
    figure = plots.proposals(search_report | {"selection": {"method": "search", "proposals": far}})
    assert figure.axes[0].get_yscale() == "symlog"
    assert "Δ log evidence [nats]\n(symmetric log scale)" in texts(figure)
    assert "nats per training example" not in texts(figure), "the report does not say how many there are"
    assert "none was kept" in str(figure.get_label())
    assert rendered(figure)


def test_a_failed_proposal_is_left_out(search_report: dict[str, Any]) -> None:
    search_report["selection"]["proposals"][0]["delta_log_evidence"] = None
    assert "9 proposals" in str(plots.proposals(search_report).get_label())


def test_evidence_is_per_example_with_phases_and_what_was_accepted(
    search_report: dict[str, Any], search_metrics: list[dict[str, Any]]
) -> None:
    figure = plots.evidence_curve(search_metrics, search_report)
    above, below = figure.axes
    evidence, *_ = above.lines
    assert len(xs(evidence)) == 12, "every fifth of sixty epochs"
    last = -search_metrics[-1]["log_marginal_likelihood"] / 1400
    assert ys(evidence)[-1] == pytest.approx(last)
    written = texts(figure)
    assert {"strict start", "round 1: +f-fc in layer 4", "round 2", "anneal", f"best {last:.3f}"} <= set(
        written
    )
    assert above.get_ylabel() == "nats per training example" and below.get_ylabel() == "accuracy [%]"
    assert "test, 94.9 % at the end" in written


def test_evidence_without_the_number_of_examples_is_in_total(search_metrics: list[dict[str, Any]]) -> None:
    figure = plots.evidence_curve(search_metrics)
    above, _, loss = figure.axes
    assert above.get_ylabel() == "nats, in total" and loss.get_ylabel() == "train loss [nats per example]"
    assert ys(above.lines[0])[-1] == pytest.approx(-search_metrics[-1]["log_marginal_likelihood"])


def test_epochs_that_start_over_are_counted_on(search_metrics: list[dict[str, Any]]) -> None:
    for row in search_metrics:
        row["epoch"] %= 15
    figure = plots.evidence_curve(search_metrics)
    assert "epoch, counted over all phases" in texts(figure)
    assert xs(figure.axes[0].lines[0])[-1] == 60


def test_prior_precisions_have_a_panel_a_layer(
    search_report: dict[str, Any], search_metrics: list[dict[str, Any]]
) -> None:
    figure = plots.prior_precisions(search_metrics, search_report)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == [*(f"layer {at}: shifts" for at in range(4)), "layer 4: none", "head 0", "head 2"]
    lines = figure.axes[4].lines
    assert len(lines) == 6, "two tensors of conv, four of f-fc"
    entering = next(line for line in lines if line.get_color() == plots.path_colour("f-fc"))
    assert np.isnan(ys(entering)[:3]).all() and np.isfinite(ys(entering)[3:]).all(), (
        "f-fc enters in round 1, at the fourth of twelve evidence steps"
    )
    assert {"conv", "f-fc", "linear", "weight, theta1", "theta2"} <= set(texts(figure))
    assert all(axes.get_yscale() == "log" for axes in figure.axes if axes.axison)


def test_many_tensors_are_drawn_per_path_by_geometric_mean() -> None:
    paths, leaves = ("f-fc", "s-fc", "conv"), ("a", "b", "c")
    tensors = {f"layers.0.paths.{path}.{leaf}": 10.0**at for path in paths for at, leaf in enumerate(leaves)}
    tensors["layers.0.paths.conv.a"] = 0.0  # has no logarithm and is left out
    rows = [{"epoch": at, "prior_precision": tensors} for at in range(3)]
    figure = plots.prior_precisions(rows)
    lines = {line.get_color(): ys(line)[0] for line in figure.axes[0].lines}
    assert lines == pytest.approx(
        {plots.path_colour("f-fc"): 10.0, plots.path_colour("s-fc"): 10.0, plots.path_colour("conv"): 10**1.5}
    )
    assert rendered(figure)


def test_paths_keep_their_colours_and_differ() -> None:
    paths = [
        "fc",
        "f-fc",
        "s-fc",
        "conv",
        "s-conv",
        "gconv-p4",
        "gconv-p4m",
        "gconv-c6",
        "gconv-p4:pointwise",
        "linear",
    ]
    colours = [plots.path_colour(path) for path in paths]
    assert len(set(colours)) == len(paths), colours
    assert plots.path_colour("conv") == "#0072B2"
    assert plots.path_colour("a path of one's own") == plots.path_colour("a path of one's own")


def test_dollars_in_names_are_no_formulas(search_report: dict[str, Any]) -> None:
    search_report["data"] = "costs $5 and $\\frac"
    figure = plots.effective_dimension_heat_map(search_report)
    assert rendered(figure)
    assert "costs $5 and $\\frac" in (figure.get_suptitle() or "")


def sparse_run() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(metrics, filters) of a made-up run with S-FC and S-CONV in two layers."""
    names = [
        "layers.0.paths.s-conv.basis.log_lengthscale",
        "layers.1.paths.s-fc.theta1.basis.log_lengthscale",
    ]
    metrics = [
        {
            "epoch": k,
            "lengthscale": {name: 1.0 + 0.1 * k * (n + 1) for n, name in enumerate(names[: 1 + k // 2])},
        }
        for k in range(5)
    ]
    filters = [
        {
            "layer": f"layers.{n}",
            "path": path,
            "part": part,
            "size": [2, 3],
            "filters": [[0.5, -1.0, 0.0, 0.25, 1.0, -0.5]] * (2 + n),
            "anchors": [[0.0, 1.0], [1.2, 2.3]],
            "lengthscale": 1.25,
        }
        for n, (path, part) in enumerate([("s-conv", ""), ("s-fc", "theta1")])
    ]
    return metrics, filters


def test_lengthscales_have_a_panel_a_path_and_a_line_a_layer() -> None:
    metrics, _ = sparse_run()
    figure = plots.lengthscales(metrics)
    assert {"s-conv", "s-fc theta1", "layer 0", "layer 1"} <= set(texts(figure))
    first, second = (axes.get_lines() for axes in figure.axes)
    assert list(first[0].get_ydata()) == pytest.approx([1.0, 1.1, 1.2, 1.3, 1.4])
    assert np.isnan(second[0].get_ydata()[:2]).all() and second[0].get_ydata()[-1] == pytest.approx(1.8)
    assert "layer 1 s-fc 1.80" in str(figure.get_label())
    assert rendered(figure).startswith(b"\x89PNG")


def test_filters_show_values_and_anchors() -> None:
    _, filters = sparse_run()
    figure = plots.learned_filters(filters)
    assert [len(axes.images) for axes in figure.axes] == [2, 3]
    one = figure.axes[0]
    assert np.asarray(one.images[0].get_array()).tolist() == [[0.5, -1.0, 0.0], [0.25, 1.0, -0.5]]
    left, right, bottom, top = one.images[0].get_extent()
    assert (right - left, top - bottom) == pytest.approx((1, 2 / 3)), "three columns, two rows"
    places = np.asarray(one.collections[0].get_offsets())
    cells = np.stack([places[:, 0] * 3 - 0.5, (2 / 3 - places[:, 1]) * 3 - 0.5], 1)
    assert cells == pytest.approx(np.array([[1.0, 0.0], [2.3, 1.2]])), "column, row"
    assert any("ℓ = 1.25" in text for text in texts(figure))
    assert rendered(figure).startswith(b"\x89PNG")


def test_filters_of_signals_are_lines_and_those_of_volumes_slices() -> None:
    _, filters = sparse_run()
    signal = {**filters[0], "size": [6], "anchors": [[1.0], [3.5]]}
    values = [float(v) for v in range(3 * 2 * 2)]
    volume = {**filters[1], "size": [3, 2, 2], "filters": [values], "anchors": [[0.0, 1.0, 1.0]]}
    figure = plots.learned_filters([signal, volume])
    line = figure.axes[0].get_lines()[-1]
    assert len(figure.axes[0].get_lines()) == 2 * 2, "zero and the filter, twice"
    assert (np.asarray(line.get_ydata()) - 0.5) * 2.2 == pytest.approx(signal["filters"][0]), (
        "its largest is 1"
    )
    anchors = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert anchors[:, 0] * 6 - 0.5 == pytest.approx([1.0, 3.5]) and set(anchors[:, 1]) == {0.5}
    (slices,) = [np.ma.filled(axes.images[0].get_array(), np.nan) for axes in figure.axes if axes.images]
    nan = float("nan")
    expected = [
        [0.0, 1.0, nan, 4.0, 5.0],
        [2.0, 3.0, nan, 6.0, 7.0],
        [nan] * 5,
        [8.0, 9.0, nan, nan, nan],
        [10.0, 11.0, nan, nan, nan],
    ]
    assert np.array_equal(slices, expected, equal_nan=True)
    assert any("slices of a volume" in text for text in texts(figure))
    assert rendered(figure).startswith(b"\x89PNG")


@pytest.mark.slow
def test_runs_with_filters_and_lengthscales_have_their_figures(search_report: dict[str, Any]) -> None:
    metrics, filters = sparse_run()
    assert list(plots.run_figures(search_report, metrics, filters))[-2:] == ["lengthscales", "filters"]
    assert "no path with filters" in " ".join(texts(plots.learned_filters([])))
    assert "no lengthscale was learned" in " ".join(texts(plots.lengthscales([])))


def test_equivariance_errors_are_told_cell_by_cell(search_report: dict[str, Any]) -> None:
    layers = [
        {"name": f"layers.{k}", "elements": [0.0, 1e-9, 0.25], "shift": shift}
        for k, shift in enumerate([2e-8, 0.5])
    ]
    network = {"name": "network", "elements": [0.0, 0.03, 0.03], "shift": 0.1}
    found = {
        "group": "c3",
        "exact": False,
        "element_names": ["0°", "120°", "240°"],
        "images": 16,
        "layers": layers,
        "network": network,
    }
    figure = plots.equivariance_errors({**search_report, "equivariance": found})
    written = texts(figure)
    assert {"shifts", "120°", "240°", "layer 0", "layer 1", "network"} <= set(written)
    assert written.count("exact") == 3 and written.count("0.25") == 2 and "0.5" in written
    assert rendered(figure).startswith(b"\x89PNG")
    assert "not measured" in " ".join(
        texts(plots.equivariance_errors({**search_report, "equivariance": None}))
    )


def bank_entries() -> list[dict[str, Any]]:
    """filters.json of a layer with a free bank and one of four turns."""
    generator = np.random.default_rng(0)
    return [
        {"layer": "layers.0", "path": path, "part": "", "size": [3, 3], "turns": turns, "anchors": None,
         "lengthscale": None, "filters": generator.normal(size=(6 * turns, 9)).tolist()}
        for path, turns in (("free", 1), ("cyclic-90", 4))
    ]  # fmt: skip


def test_rotated_filters_are_a_grid_of_filters_and_turns() -> None:
    figure = plots.rotated_filters(bank_entries(), None)
    assert rendered(figure).startswith(b"\x89PNG")
    (image,) = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert image.get_array().shape == (6 * 5, 4 * 5), "six filters of 3 x 3 with gaps, four turns"
    assert "layer 0, cyclic-90" in texts(figure) and "4 turns" in str(figure.get_label())
    assert "no bank" in str(plots.rotated_filters(bank_entries()[:1]).get_label())


def test_generators_break_where_their_bank_was_absent() -> None:
    names = [f"layers.{k}.paths.cyclic-60.rotations.generator" for k in range(2)]
    metrics = [
        {"epoch": epoch, "generator": {names[0]: 48.0 + epoch, **({names[1]: 60.0} if epoch < 3 else {})}}
        for epoch in range(1, 6)
    ]
    figure = plots.generators(metrics, None)
    assert rendered(figure).startswith(b"\x89PNG")
    reference, first, second = figure.axes[0].get_lines()
    assert ys(reference)[0] == 60.0, "where six turns make a whole one"
    assert ys(first).tolist() == [49.0, 50.0, 51.0, 52.0, 53.0] and np.isnan(ys(second)[-1])
    assert "53.0°, -42.0° off after 6" in str(figure.get_label())


def test_sparsity_has_a_bar_a_bank(search_report: dict[str, Any]) -> None:
    entries = [
        {"layer": f"layers.{k}", "path": path, "nonzero": 0.1 * (k + 1)}
        for k in range(3)
        for path in ("free", "cyclic-90")
    ]
    figure = plots.code_sparsity({**search_report, "sparsity": entries})
    assert rendered(figure).startswith(b"\x89PNG")
    heights = [bar.get_height() for bar in figure.axes[0].findobj(Rectangle) if bar.get_height() > 1]
    assert sorted(round(h) for h in heights if h < 31) == [10, 10, 20, 20, 30, 30]
    assert "layer 2 cyclic-90 30 %" in str(figure.get_label())
