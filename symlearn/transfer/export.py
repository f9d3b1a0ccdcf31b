"""A plain network as a file that other programs read, checked by reading it back.

    pt2          torch.export: the graph with its weights; `torch.export.load(FILE).module()`
    onnx         ONNX, for onnxruntime and others
    safetensors  the weights alone, for a network that is already there

The number of images is free, everything else is fixed. What a user needs besides (classes, how images are
brought to the network's size and scale, what was collapsed) travels in the file as JSON under the key
`symlearn`.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kfac import evaluated, one_line, run
from symlearn.extras import need
from symlearn.run_folder import to_json, write_atomically

KEY = "symlearn"
TOLERANCE = 1e-4  # of the largest output, between the network and what was read back
OPSET = 18


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Say in one line what an exporter or a reader says in many.

    Raises:
        ValueError: whatever they raised.
    """
    try:
        yield
    except Exception as error:  # each has kinds of its own
        raise ValueError(f"{what} ({one_line(error)}); nothing was written, {remedy}") from error


def exported(plain: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """The network as an exported program for any number of images."""
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(plain.eval(), (x[:2],), dynamic_shapes=({0: batch},))


def as_pt2(plain: nn.Module, x: Tensor, about: str) -> bytes:
    """The content of a .pt2 file."""
    buffer = io.BytesIO()
    torch.export.save(exported(plain, x), buffer, extra_files={KEY: about})
    return buffer.getvalue()


def run_pt2(content: bytes, x: Tensor) -> Tensor:
    """The outputs of a .pt2 file."""
    with torch.no_grad():
        return torch.export.load(io.BytesIO(content)).module()(x)


def as_onnx(plain: nn.Module, x: Tensor, about: str) -> bytes:
    """The content of an .onnx file."""
    program = torch.onnx.export(
        exported(plain, x),
        input_names=["images"],
        output_names=["outputs"],
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[KEY] = about
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "network.onnx"
        program.save(path, external_data=False)
        return path.read_bytes()


def run_onnx(content: bytes, x: Tensor) -> Tensor:
    """The outputs of an .onnx file by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": x.cpu().numpy()})[0])


def as_safetensors(plain: nn.Module, x: Tensor, about: str) -> bytes:
    """The content of a .safetensors file."""
    from safetensors.torch import save

    tensors = {name: t.detach().contiguous().clone() for name, t in plain.state_dict().items()}
    return save(tensors, {KEY: about})


FORMATS: dict[str, tuple[Callable[..., bytes], Callable[[bytes, Tensor], Tensor] | None]] = {
    "pt2": (as_pt2, run_pt2),
    "onnx": (as_onnx, run_onnx),
    "safetensors": (as_safetensors, None),
}

LIBRARIES = {"pt2": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}


def export(
    plain: nn.Module, images: Tensor, path: Path, file_format: str, about: dict[str, Any] | None = None
) -> float | None:
    """Write a plain network, once it gives the same outputs when read back.

    Args:
        plain: of `symlearn.collapse`, or any network that torch can export.
        images: `[n, c, h, w]`, two or more, that the outputs are compared on.
        path: the file, replaced in one step once its content has passed the comparison.
        file_format: "pt2", "onnx" or "safetensors".
        about: what travels in the file as JSON.

    Returns:
        The largest relative change of an output; None for weights alone, which have no outputs of their own.

    Raises:
        MissingExtraError: a library that the format needs is not installed.
        ValueError: an unknown format, fewer than two images, images that the network does not take, a network
            that cannot be written in this format or not be run from it, a file that cannot be written,
            outputs that differ by more than 1e-4.
    """
    if file_format not in FORMATS:
        raise ValueError(f"unknown format {file_format!r}; choose from {', '.join(FORMATS)}")
    if len(images) < 2:
        raise ValueError(f"expected two images or more to compare outputs on, got {len(images)}")
    write, read = FORMATS[file_format]
    need("export", f"{file_format} files", *LIBRARIES[file_format])
    about_text = to_json(about or {})
    with quiet(), evaluated(plain):
        wanted = None
        if read is not None:
            with torch.no_grad():
                wanted = run(plain, images)
        with explained(f"torch cannot write the network as {file_format}", "try another format"):
            content = write(plain, images, about_text)
        change = None
        if read is not None and wanted is not None:
            with explained(f"the {file_format} file does not run", "try .float() or another format"):
                found = read(content, images).to(wanted)
            gap = (found - wanted).abs().max()
            change = float(gap / wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny))
            if not change <= TOLERANCE:
                raise ValueError(
                    f"the outputs of the {file_format} file differ by {change:.1e} of the largest; nothing "
                    "was written, try another format"
                )
    write_atomically(path, content)
    return change
