"""From a run folder to a file with the plain network.

Axes: n, c, h, w.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from symlearn.extras import need
from symlearn.run_folder import REPORT, RunFolder
from symlearn.runs.experiment import Build, load, read_result
from symlearn.training.inputs import samples_from
from symlearn.transfer.collapse import MEASURED, CollapseReport, collapse, removal_of
from symlearn.transfer.export import FORMATS, LIBRARIES, export


def collapse_run(
    folder: str | Path,
    out: Path,
    file_format: str,
    negligible: float = 0.01,
    removal: str = "measured",
    network: Build | None = None,
) -> tuple[CollapseReport, float | None]:
    """Collapse a finished run's network and write it.

    The training data are read again, for what is measured.

    Returns:
        What collapsing did, and `export`'s largest relative change, None where the format has no outputs.

    Raises:
        ValueError: the run has not finished, an unknown format, a path or share that cannot be used.
    """
    if file_format not in FORMATS:
        raise ValueError(f"unknown format {file_format!r}; choose from {', '.join(FORMATS)}")
    need("export", f"{file_format} files", *LIBRARIES[file_format])
    chosen = removal_of(removal)
    if not out.parent.is_dir() or out.is_dir():
        what = "is a folder" if out.is_dir() else f"cannot be written: {out.parent} is no folder"
        raise ValueError(f"{out} {what}; give a file in a folder that exists")
    RunFolder.open(folder).read_json(REPORT)
    result = read_result(folder, network)
    _, splits = load(result.config)
    data = samples_from(splits.train, next(result.model.parameters()).device)
    plain = collapse(result.model, replace(result, train=data), negligible=negligible, removal=chosen)
    report = plain.collapse_report
    assert isinstance(report, CollapseReport)
    about = {
        "class_names": list(splits.class_names),
        "preprocessing": splits.preprocessing.to_dict(),
        "collapse": asdict(report),
    }
    return report, export(plain, data.first(MEASURED)[0], out, file_format, about)
