"""A report as a notebook shows it: the verdict, the numbers and the tables as one piece of HTML.

Axes: none.
"""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.text import Text

from symlearn.report.reading import Report
from symlearn.report.remarks import remarks
from symlearn.report.sentence import verdict_sentence
from symlearn.report.table import layer_table, removals_table, run_numbers

WIDTH = 110  # columns


def report_html(report: Report) -> str:
    """Verdict and tables as HTML with its styles inline; whatever names hold is escaped."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False, highlight=False)
    sentences = [verdict_sentence(report), *remarks(report)]
    tables = [layer_table(report), removals_table(report)]
    for part in [*(Text(s) for s in sentences), *(t for t in tables if t is not None)]:
        console.print(part)
    for name, value in run_numbers(report):
        console.print(Text(f"{name}: {value}"))
    return console.export_html(
        inline_styles=True, code_format='<pre style="font-family: monospace; line-height: 1.3">{code}</pre>'
    )


class ReportDict(dict[str, Any]):
    """report.json as a dictionary that shows itself in notebooks."""

    def _repr_html_(self) -> str:
        return report_html(self)
