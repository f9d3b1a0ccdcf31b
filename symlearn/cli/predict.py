"""`symlearn predict`: classes and probabilities of new images, as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from symlearn.cli.own_network import RunModel, network_of_run
from symlearn.cli.report import RunPath

if TYPE_CHECKING:
    from symlearn.runs.predict import Predictions


def predict(
    directory: RunPath,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="images: a .npz file, a folder, one image file, or a data set's name (its test images)",
            show_default=False,
        ),
    ],
    laplace: Annotated[
        bool,
        typer.Option(
            "--laplace",
            help="with the uncertainty of the weights; reads the training data again",
            show_default=False,
        ),
    ] = False,
    model: RunModel = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write here instead of to stdout", show_default=False)
    ] = None,
) -> None:
    """Predict new images: a line of CSV each, with name, class, its probability and every class's."""
    from symlearn.run_folder import RunFolder, write_atomically
    from symlearn.runs.predict import predict_images

    text = as_csv(
        predict_images(RunFolder(directory), data, laplace=laplace, network=network_of_run(directory, model))
    )
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text.encode("utf-8"))


def as_csv(predictions: Predictions) -> str:
    """Header and a line an image; probabilities to six digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(predictions.columns)
    for row in predictions.rows():
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return buffer.getvalue()
