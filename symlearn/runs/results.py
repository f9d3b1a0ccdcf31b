"""What a finished run leaves in its folder, written and read: report, page, figures, the learned network.

Reading never trains; figures and page are drawn from `report.json` and `metrics.jsonl` alone.

Axes: n, c, h, w, classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symlearn.config import Config, read_config
from symlearn.run_folder import (
    CONFIG,
    ENVIRONMENT,
    EXAMPLES,
    FIGURES,
    FILTERS,
    FOUND,
    FOUND_PAGE,
    MODEL,
    PAGE,
    PREPROCESSING,
    REPORT,
    RunFolder,
    to_json,
    write_atomically,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from symlearn.data import Preprocessing
    from symlearn.fitting.found import WhatWasFound

REPORT_SCHEMAS = (1, 2)
LINKS = {"report": PAGE, "found": FOUND}


@dataclass(frozen=True, eq=False)
class LearnedNetwork:
    """A learned network and what it needs to be used.

    Attributes:
        model: in `eval` mode, `[n, c, h, w] -> [n, classes]`, for preprocessed images.
        preprocessing: what raw images must go through.
        class_names: names of the classes.
        prior_precision: delta by parameter name.
        sigma_noise: noise of a regression.
        config: of its fit.
    """

    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    prior_precision: dict[str, float]
    sigma_noise: float
    config: Config


def write_results(
    folder: RunFolder,
    metrics: list[dict[str, Any]],
    filters: list[dict[str, Any]],
    config: Config,
    found: WhatWasFound,
) -> None:
    """Write filters.json, what was found, figures, pages and, last of all, report.json.

    Raises:
        ValueError: a file cannot be written.
    """
    folder.write_text(FILTERS, to_json(filters))
    folder.write_text(FOUND, to_json(found.content))
    folder.write_text(EXAMPLES, to_json({"schema": 1, "rows": found.rows}, indent=None))
    from symlearn.report.page import pngs

    report = found.report
    figures = run_figures_of(report, metrics, filters)
    drawn = pngs(figures)  # the slow part, for the files and for the page
    _write_figures(folder, drawn)
    _write_found(folder, found)
    environment = folder.read_json(ENVIRONMENT) if folder.file(ENVIRONMENT).is_file() else None
    page = page_of(report, metrics, figures, config, environment, drawn, FOUND_PAGE)
    folder.write_text(PAGE, page)
    folder.write_text(REPORT, to_json(report))


def _write_found(folder: RunFolder, found: WhatWasFound) -> list[Path]:
    """Write the page 'What was found' and its figures; the paths of all."""
    from symlearn.report.found_page import found_page
    from symlearn.report.page import pngs

    figures = found.figures()
    drawn = pngs(figures)
    folder.write_text(FOUND_PAGE, found_page(found.report, found.content, figures, drawn, LINKS))
    return _write_figures(folder, drawn)


def run_figures_of(
    report: Mapping[str, Any], metrics: list[dict[str, Any]], filters: list[dict[str, Any]]
) -> dict[str, Figure]:
    """Every figure of a run by the stem of its file."""
    from symlearn.report.plots import run_figures

    return run_figures(report, metrics, filters)


def page_of(
    report: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    figures: Mapping[str, Figure],
    config: Config,
    environment: Mapping[str, Any] | None,
    drawn: Mapping[str, bytes] | None = None,
    found: str | None = None,
) -> str:
    """The run's HTML page."""
    from symlearn.report.page import html_page

    tables = config.model_dump(exclude_none=True)
    return html_page(report, metrics, figures, tables, environment, drawn, found)


def draw_figures(folder: RunFolder) -> list[Path]:
    """Draw the figures of a finished run, and the page 'What was found', anew.

    Returns:
        Paths of the images that were written.

    Raises:
        ValueError: the run has not finished, its report is damaged, or a file cannot be written.
    """
    from symlearn.report.page import pngs

    report = read_report(folder)
    figures = run_figures_of(report, folder.metrics(), read_filters(folder))
    found = read_found(folder, report)
    return [*_write_figures(folder, pngs(figures)), *_write_found(folder, found)]


def read_page(folder: RunFolder) -> str:
    """The HTML page of a finished run, made anew from what lies in its folder.

    Returns:
        The document; nothing is written.

    Raises:
        ValueError: the run has not finished, or a file is damaged.
    """
    report, metrics = read_report(folder), folder.metrics()
    environment = folder.read_json(ENVIRONMENT) if folder.file(ENVIRONMENT).is_file() else None
    config = read_config(folder.file(CONFIG))
    figures = run_figures_of(report, metrics, read_filters(folder))
    return page_of(report, metrics, figures, config, environment)


def read_found_page(folder: RunFolder) -> str:
    """The page 'What was found' of a finished run, made anew from what lies in its folder.

    Returns:
        The document; nothing is measured or written.

    Raises:
        ValueError: the run has not finished, or a file is damaged.
    """
    from symlearn.report.found_page import found_page

    found = read_found(folder, read_report(folder))
    return found_page(found.report, found.content, found.figures())


def read_found(folder: RunFolder, report: Mapping[str, Any]) -> WhatWasFound:
    """Read found.json and examples.json of a finished run.

    Returns:
        Their content; of a folder that was written without the files, what its report says, and why nothing
        more.

    Raises:
        ValueError: a file is damaged, or the images alone are missing.
    """
    from symlearn.fitting.found import WhatWasFound
    from symlearn.report.found_page import SCHEMA, found_content

    if not folder.file(FOUND).is_file():
        skipped = dict.fromkeys(
            ("symmetries", "edges"), "an earlier version, which did not measure it, fitted"
        )
        return WhatWasFound(found_content(report, {"skipped": skipped}), [], report)
    content, examples = folder.read_json(FOUND), folder.read_json(EXAMPLES)
    for name, given in ((FOUND, content), (EXAMPLES, examples)):
        if not isinstance(given, dict) or given.get("schema") != SCHEMA:
            raise ValueError(f"{folder.file(name)} is damaged or of another version; restore it or fit again")
    if not isinstance(examples.get("rows"), list):
        raise ValueError(f"{folder.file(EXAMPLES)} is damaged: it has no rows; restore it or fit again")
    return WhatWasFound(content, examples["rows"], report)


def read_filters(folder: RunFolder) -> list[dict[str, Any]]:
    """Read filters.json of a finished run.

    Returns:
        An entry a weight tensor; empty for a folder that was written without the file.

    Raises:
        ValueError: the file is damaged.
    """
    if not folder.file(FILTERS).is_file():
        return []
    found, wanted = folder.read_json(FILTERS), {"layer", "path", "part", "size", "filters", "anchors"}
    if not isinstance(found, list) or not all(isinstance(e, dict) and wanted <= set(e) for e in found):
        raise ValueError(f"{folder.file(FILTERS)} is damaged; delete it, or restore it")
    return found


def read_report(folder: RunFolder) -> dict[str, Any]:
    """Read report.json of a finished run.

    Returns:
        Its content, of a schema that is known, with layers, paths and selection.

    Raises:
        ValueError: the run has not finished, or the file is no report.
    """
    report, path = folder.read_json(REPORT), folder.file(REPORT)
    if not isinstance(report, dict) or report.get("schema") not in REPORT_SCHEMAS:
        known = " or ".join(map(str, REPORT_SCHEMAS))
        raise ValueError(f"{path} is no report of schema {known}; restore it or fit again")
    layers, selection = report.get("layers"), report.get("selection")
    whole = isinstance(layers, list) and all(
        isinstance(layer, dict)
        and isinstance(layer.get("name"), str)
        and isinstance(layer.get("paths"), dict)
        and all(isinstance(entry, dict) for entry in layer["paths"].values())
        for layer in layers
    )
    if not whole or not isinstance(selection, dict) or not isinstance(report.get("paths"), list):
        raise ValueError(
            f"{path} is damaged: layers, paths or selection are missing; restore it or fit again"
        )
    return report


def expect_builder(config: Config, network: Callable[..., nn.Module] | None) -> None:
    """Refuse a network of the user's own that nothing builds: no file is run because a folder names it.

    Raises:
        ValueError: which it is, and how to give it; or a network that the configuration does not name.
    """
    if config.model.model is None and network is not None:
        raise ValueError(
            "network= builds a network that the configuration does not name; set its [model] model to "
            "FILE.py:FUNCTION"
        )
    if config.model.model is not None and network is None:
        raise ValueError(
            f"the network is the user's own, made by {config.model.model}; give it again with --model, or in "
            "Python by network="
        )


def read_learned(folder: RunFolder, network: Callable[..., nn.Module] | None = None) -> LearnedNetwork:
    """Read the learned network of a finished run.

    Args:
        folder: of the run.
        network: builds a network of the user's own, from channels, size and classes.

    Returns:
        The network in `eval` mode on the CPU, with its preprocessing, names of classes, precisions, noise and
        configuration.

    Raises:
        ValueError: the run has not finished, a file is damaged, or nothing builds its network.
    """
    import torch

    from symlearn.data import Preprocessing
    from symlearn.networks import averaged, configured_model

    saved = folder.load_tensors(MODEL)
    config = read_config(folder.file(CONFIG))
    expect_builder(config, network)
    preprocessing = Preprocessing.from_dict(folder.read_json(PREPROCESSING))
    try:
        with torch.random.fork_rng(devices=[]):
            classes = len(saved["class_names"])
            channels, size = len(preprocessing.mean), preprocessing.size
            if network is not None:
                model = averaged(network(channels, size, classes), config.model, channels, size)
            else:
                model = configured_model(config.model, channels, size, classes)
        model.load_state_dict(saved["model"])
        precision = {str(name): float(value) for name, value in saved["prior_precision"].items()}
        sigma_noise = float(saved["sigma_noise"])
    except (KeyError, TypeError, AttributeError, RuntimeError):
        raise ValueError(
            f"{folder.file(MODEL)} does not belong to {folder.file(CONFIG)}; restore them or fit again"
        ) from None
    return LearnedNetwork(
        model.eval(), preprocessing, tuple(saved["class_names"]), precision, sigma_noise, config
    )


def _write_figures(folder: RunFolder, drawn: Mapping[str, bytes]) -> list[Path]:
    place = folder.subfolder(FIGURES)
    paths = []
    for name, image in drawn.items():
        paths.append(place / f"{name}.png")
        write_atomically(paths[-1], image)
    return paths
