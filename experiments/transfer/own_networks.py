"""Networks of one's own: relaxed, fitted by the evidence, collapsed to plain layers, exported.

    quadrant    a CNN of circular convolutions, with an average over places at its end, is trained on (digit,
                quadrant), where the place matters and the average forgets it. (Zero padding tells a network
                where its borders are: the same CNN with it reaches 96 % as it is.) Relaxed, it is fitted by
                the evidence; beside it the same CNN, not relaxed, has the same fit (`control`), so that the
                gain is the paths' and not the longer training's.
    class       the same CNN trained on the digits alone: nothing to gain, three epochs of evidence.
    resnet-18   torchvision's, random weights, 3x32x32: three epochs of evidence on few images. What is shown
                is that the whole way works on it, not an accuracy.

Every collapsed network is compared with the learned one, and with its files read back: torch.export and ONNX.

    python experiments/transfer/own_networks.py [--scale smoke|small|paper] [--cases quadrant ...]

It writes results/own_networks.<scale>.json, a row a run, and prints the table.

Axes: batch, c, h, w, classes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

import symlearn
from symlearn.analysis.calibration import scores
from symlearn.run_folder import environment, to_json, write_atomically
from symlearn.runs.provenance import commit
from symlearn.transfer.export import export

HERE = Path(__file__).resolve().parent
Pairs = tuple[Tensor, Tensor]
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"limit": 100, "cnn_epochs": 3, "epochs": 4, "images": 8, "seeds": [0]},
    "small": {"limit": None, "cnn_epochs": 60, "epochs": 60, "images": 64, "seeds": [0, 1, 2]},
    "paper": {"limit": None, "cnn_epochs": 200, "epochs": 160, "images": 512, "seeds": [0, 1, 2]},
}
EVIDENCE_EPOCHS = 3  # of `class` and `resnet-18`
BATCH, LEARNING_RATE = 50, 0.002


def cnn(classes: int, width: int = 16) -> nn.Sequential:
    """Four circular convolutions, an average over places, Linear: `[batch, 1, h, w] -> classes`."""
    channels = (1, width, width, 2 * width, 2 * width)
    layers: list[nn.Module] = []
    for i, stride in enumerate((1, 2, 2, 2)):
        conv = nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1, padding_mode="circular")
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def train(model: nn.Module, data: Pairs, epochs: int, seed: int) -> nn.Module:
    """Plain training with Adam, cosine to zero: what a user has before coming here."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=1e-4)
    steps = epochs * -(-len(data[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(data[0]), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def tested(model: nn.Module, data: Pairs) -> dict[str, float | None]:
    """Accuracy, negative log-likelihood in nats and calibration error of the plain outputs."""
    with torch.no_grad():
        return scores(model(data[0]).double().softmax(1), data[1])


def way_through(
    relaxed: nn.Module, fitting: Pairs, test: Pairs, config: dict[str, Any], removal: str
) -> dict[str, Any]:
    """Fit a relaxed network, collapse it, export it both ways."""
    began = time.perf_counter()
    result = symlearn.fit(relaxed, fitting, test, config)
    seconds = time.perf_counter() - began
    plain = symlearn.collapse(relaxed, result, removal=removal)
    about = plain.collapse_report
    with tempfile.TemporaryDirectory() as folder:
        files = {
            kind: export(plain, fitting[0][:4], Path(folder) / f"plain.{kind}", kind)
            for kind in ("pt2", "onnx")
        }
    return {
        "fit_seconds": seconds,
        "log_marginal_likelihood": result.report["log_marginal_likelihood"],
        "selection": result.report["selection"],
        "learned": tested(result.model.eval(), test),
        "collapsed": tested(plain, test),
        "layer_types": about.layer_types,
        "paths": [vars(fate) for fate in about.paths],
        "largest_change": about.relative_change,
        "parameters": about.parameters,
        "pass_seconds": about.seconds,
        "exported_change": files,
        "plain_layers": sorted({type(m).__name__ for m in plain.modules() if not list(m.children())}),
    }


def on_digits(case: str, seed: int, scale: dict[str, Any]) -> dict[str, Any]:
    """The CNN on digits: with quadrants beside its control, or without."""
    task = "quadrant" if case == "quadrant" else "class"
    splits = symlearn.load_data("digits", task, limit=scale["limit"], size=16)
    fitting, test = splits.train.tensors, splits.test.tensors
    torch.manual_seed(seed)
    own = train(cnn(splits.classes), fitting, scale["cnn_epochs"], seed)
    row: dict[str, Any] = {"parameters_before": sum(p.numel() for p in own.parameters())}
    row["before"] = tested(own, test)
    epochs = scale["epochs"] if case == "quadrant" else EVIDENCE_EPOCHS
    config: dict[str, Any] = {"training": {"epochs": epochs, "seed": seed, "lr": LEARNING_RATE}}
    if case == "class":
        config["evidence"] = {"selection": "gradient", "burn_in": 1, "frequency": 1}
    else:
        control = symlearn.fit(copy.deepcopy(own), fitting, test, config)
        row["control"] = tested(control.model.eval(), test)
        row["control_log_marginal_likelihood"] = control.report["log_marginal_likelihood"]
    relaxed = symlearn.relax(own, fitting[0].shape[1:])
    row["change_at_the_start"] = change(own, relaxed, test[0])
    return row | way_through(relaxed, fitting, test, config, "measured")


def on_resnet(seed: int, scale: dict[str, Any]) -> dict[str, Any]:
    """ResNet-18 on a few digits, three equal channels."""
    splits = symlearn.load_data("digits", "class", limit=scale["images"], test_limit=64, size=32)
    fitting = splits.train.tensors[0].repeat(1, 3, 1, 1), splits.train.tensors[1]
    test = splits.test.tensors[0].repeat(1, 3, 1, 1), splits.test.tensors[1]
    torch.manual_seed(seed)
    own = resnet18(num_classes=10).eval()
    relaxed = symlearn.relax(own, (3, 32, 32))
    row = {
        "parameters_before": sum(p.numel() for p in own.parameters()),
        "before": tested(own, test),
        "relaxed": list(relaxed.relaxation.relaxed),
        "left": relaxed.relaxation.left,
        "change_at_the_start": change(own, relaxed, test[0]),
    }
    config = {
        "training": {"epochs": EVIDENCE_EPOCHS, "seed": seed, "lr": 1e-3, "batch_size": 16},
        "evidence": {"selection": "gradient", "burn_in": 1, "frequency": 1},
        "curvature": {"fisher_type": "mc", "batch_size": 32},
    }
    return row | way_through(relaxed, fitting, test, config, "local")


def change(before: nn.Module, after: nn.Module, images: Tensor) -> float:
    """Largest change of an output, over the largest output."""
    with torch.no_grad():
        wanted, got = before.eval()(images), after.eval()(images)
    return float((got - wanted).abs().max() / wanted.abs().max())


def one_run(case: str, seed: int, scale: dict[str, Any]) -> dict[str, Any]:
    """A row."""
    row = on_resnet(seed, scale) if case == "resnet-18" else on_digits(case, seed, scale)
    return {"case": case, "seed": seed} | row


def table(rows: list[dict[str, Any]]) -> str:
    """A line a run."""
    head = ("case", "seed", "before %", "control %", "learned %", "collapsed %", "change", "export", "types")
    form = "{:10s} {:>4s} {:>9s} {:>9s} {:>9s} {:>11s} {:>8s} {:>8s}  {}"

    def percent(row: dict[str, Any], key: str) -> str:
        return f"{100 * row[key]['accuracy']:.1f}" if key in row else "-"

    lines = [form.format(*head)]
    for row in rows:
        lines.append(
            form.format(
                row["case"],
                str(row["seed"]),
                *(percent(row, key) for key in ("before", "control", "learned", "collapsed")),
                f"{row['largest_change']:.0e}",
                f"{max(row['exported_change'].values()):.0e}",
                ", ".join(row["layer_types"].values()),
            )
        )
    gains = [r["collapsed"]["accuracy"] - r["control"]["accuracy"] for r in rows if r["case"] == "quadrant"]
    if gains:
        mean, low, high = (100 * f(gains) for f in (statistics.mean, min, max))
        lines.append(
            f"quadrant: relaxing gains {mean:+.1f} points ({low:+.1f} to {high:+.1f}) over the control"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--cases", nargs="+", default=["quadrant", "class", "resnet-18"])
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    scale = SCALES[asked.scale]
    rows = []
    for case in asked.cases:
        for seed in [0] if case == "resnet-18" else asked.seeds or scale["seeds"]:
            rows.append(one_run(case, seed, scale))
            print(f"{case}, seed {seed}: {rows[-1]['fit_seconds']:.0f} s", flush=True)
    content = {
        "experiment": __doc__.splitlines()[0],
        "scale": asked.scale,
        "options": scale,
        "commit": commit(HERE),
        "environment": environment(),
        "rows": rows,
    }
    asked.results.mkdir(parents=True, exist_ok=True)
    write_atomically(asked.results / f"own_networks.{asked.scale}.json", (to_json(content) + "\n").encode())
    print(table(rows))


if __name__ == "__main__":
    main()
