"""Figures of a run or a table, as pure functions: their JSON in, matplotlib Figures out.

Re-plotting never trains; no function touches pyplot's global state, a display or a file.
"""

from matplotlib.figure import Figure

from symlearn.report.plots.dictionaries import rotated_filters
from symlearn.report.plots.edge_examples import edge_examples
from symlearn.report.plots.equivariance import equivariance_errors
from symlearn.report.plots.evidence import evidence_curve
from symlearn.report.plots.evidence_accuracy import evidence_accuracy
from symlearn.report.plots.filters import Filters, learned_filters
from symlearn.report.plots.generators import generators
from symlearn.report.plots.heat_map import effective_dimension_heat_map
from symlearn.report.plots.kept_answers import kept_answers
from symlearn.report.plots.layer_types import layer_types
from symlearn.report.plots.lengthscales import lengthscales
from symlearn.report.plots.measured_symmetries import measured_symmetries
from symlearn.report.plots.precisions import prior_precisions
from symlearn.report.plots.proposals import proposals
from symlearn.report.plots.range_evidence import range_evidence
from symlearn.report.plots.ranges import ranges
from symlearn.report.plots.reliability import reliability_diagram
from symlearn.report.plots.removals import removals_heat_map
from symlearn.report.plots.shares import layer_shares
from symlearn.report.plots.sparsity import code_sparsity
from symlearn.report.plots.style import path_colour
from symlearn.report.reading import Metrics, Report

__all__ = [
    "code_sparsity",
    "edge_examples",
    "effective_dimension_heat_map",
    "equivariance_errors",
    "evidence_accuracy",
    "evidence_curve",
    "generators",
    "kept_answers",
    "layer_shares",
    "layer_types",
    "learned_filters",
    "lengthscales",
    "measured_symmetries",
    "path_colour",
    "prior_precisions",
    "proposals",
    "range_evidence",
    "ranges",
    "reliability_diagram",
    "removals_heat_map",
    "rotated_filters",
    "run_figures",
]


def run_figures(report: Report, metrics: Metrics, filters: Filters = ()) -> dict[str, Figure]:
    """Draw every figure of a run.

    Filters, lengthscales, generators, ranges and codes are drawn where the run has some.

    Returns:
        Figures by the stem of their file, in the order to show them.
    """
    figures = {
        "effective-dimension": effective_dimension_heat_map(report),
        "removals": removals_heat_map(report),
        "layer-shares": layer_shares(report),
        "proposals": proposals(report),
        "evidence": evidence_curve(metrics, report),
        "prior-precisions": prior_precisions(metrics, report),
    }
    if any(row.get("lengthscale") for row in metrics):
        figures["lengthscales"] = lengthscales(metrics, report)
    if any(row.get("generator") for row in metrics):
        figures["generators"] = generators(metrics, report)
    if any(row.get("range") for row in metrics):
        figures["ranges"] = ranges(metrics, report)
    if report.get("sparsity"):
        figures["sparsity"] = code_sparsity(report)
    if report.get("equivariance"):
        figures["equivariance"] = equivariance_errors(report)
    if filters:
        figures["filters"] = learned_filters(filters, report)
    if any(entry.get("turns", 1) > 1 for entry in filters):
        figures["rotated-filters"] = rotated_filters(filters, report)
    return figures
