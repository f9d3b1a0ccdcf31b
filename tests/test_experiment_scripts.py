"""Every script and every table of `experiments/` runs, at its smallest scale, in this process where it can.

What a script writes goes to a folder of the test. A script or table that is neither tried here nor named in
`ELSEWHERE` fails the first test.
"""

from __future__ import annotations

import json
import math
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from symlearn.cli import run
from symlearn.config import Config
from symlearn.runs import reproduce
from symlearn.runs.experiment import load, network_of, run_experiment
from symlearn.runs.processes import Ended
from symlearn.runs.rows import Job, run_one
from symlearn.runs.tables import known_experiments, read_experiment

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "experiments"
ELSEWHERE = {  # tried by another file, or run by a neighbour
    "equivarify/mnist.py": "test_equivarify_experiment.py",
    "transfer/own_networks.py": "test_own_networks_experiment.py",
    "benchmarks/timing.py": "benchmarks/f_fc.py",
    "layerwise/digit_runs.py": "layerwise/quadrant_digits.py",
    "robustness/summary.py": "robustness/matrix.py",
    "robustness/tasks.py": "robustness/matrix.py",
    "benchmarks/classes.py": "kfac/test_kfac_classes.py",
    "discovery/deviations.py": "test_deviations_experiment.py",
    "discovery/own_groups.py": "test_own_groups_experiment.py",
    "gcnn/fine_rotations.py": "test_fine_rotations_experiment.py",
    "laplace/minibatch_evidence.py": "test_minibatch_experiment.py",
    "results_page.py": "test_results_page.py",
}
BENCHMARKS = ("dimensions", "f_fc", "group_conv", "kfac_ten_layer", "s_fc", "subnormals", "unfolded")
SLOW_BENCHMARKS = ("kfac_ten_layer", "s_fc")
TABLES = {  # the row of every table that is fitted; the others' networks are built
    "cifar10": "All-CNN, Z2",
    "dimensions": "pulse: f-fc+conv",
    "planted": "glyph: conv by MAP,digits anywhere: f-fc+conv,turns of 90°: free+cyclic-90",
    "rotated_banks": "digits, rotated, by gradients",
    "rotated_mnist": "P4CNN",
    "table1": "digit: CONV, MAP",
    "table2": "CONV, MAP",
    "table3": "MNIST",
    "table7": "pointwise, channel matched",
    "turned_digits": "digits, quarter-turned",
    "unfolded_table1": "rotated MNIST, R60-CNN, shared, generator learned",
    "unfolded_table2": "MNIST, R90-NN, authors' variant",
}
Run = Callable[..., str]


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`script("benchmarks/f_fc.py", "--smoke")`: run it as anyone would, in this process; what it printed."""
    before = set(sys.modules)

    def call(name: str, *options: object) -> str:
        path = FOLDER / name
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, options)])
        monkeypatch.syspath_prepend(str(path.parent))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                pytest.fail(f"{name} ended with {ended.code}")
        return capsys.readouterr().out

    yield call
    for module in set(sys.modules) - before:  # two folders may have a module of one name
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[module]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of tables one after the other; test_reproduction.py has them in processes of their own."""

    def one_by_one(jobs: Sequence[Job], work: Callable[[Job], dict[str, Any]], *_: object) -> Iterator[Ended]:
        return (Ended(job, run_one(job)) for job in jobs)

    monkeypatch.setattr(reproduce, "run_jobs", one_by_one)


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit, too short to learn, whose report has been given a removal to refit."""
    folder = tmp_path_factory.mktemp("removed") / "run"
    options = {"data": "planted-texture", "limit": 60, "test_limit": 50, "alpha": 1, "epochs": 4}
    options |= {"burn_in": 4, "frequency": 1, "refit_epochs": 1, "selection": "gradient", "lr": 0.02}
    run_experiment(Config().with_options(**options), folder)
    report = content(folder / "report.json")
    removal = {"round": 0, "paths": [[report["layers"][0]["name"], "f-fc"]], "removed": False}
    report["selection"]["removals"] = [{**removal, "delta_log_evidence": 0.0, "interval": [-1.0, 1.0]}]
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def content(file: Path) -> Any:
    """A JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def test_all_of_them_are_tried() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for path in sorted(FOLDER.rglob("*.py")):
        name = path.relative_to(FOLDER).as_posix()
        benchmark = path.parent.name == "benchmarks" and path.stem in BENCHMARKS
        assert benchmark or name in ELSEWHERE or f'"{name}"' in here, f"nothing runs experiments/{name}"
    for other in ELSEWHERE.values():
        assert (ROOT / "tests" / other).is_file() or (FOLDER / other).is_file(), other
    fitted = {n for n in known_experiments(FOLDER) if read_experiment(n, FOLDER).script is None}
    assert set(TABLES) == fitted, "a table of experiments/ without a row to fit"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_BENCHMARKS else n for n in BENCHMARKS]
)
def test_benchmark(name: str, script: Run, tmp_path: Path) -> None:
    said = script(f"benchmarks/{name}.py", "--smoke", "--threads", 1, "--results", tmp_path)
    found = content(tmp_path / f"{name}.smoke.json")
    assert found["comparisons"] and all(line["name"] in said for line in found["comparisons"])
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found["seconds"].values())
    assert all(math.isfinite(line["median"]) for line in found["comparisons"])


def test_a_benchmark_says_the_memory_of_one_side(script: Run) -> None:
    said = script("benchmarks/f_fc.py", "--smoke", "--threads", 1, "--peak", "grouped, factors")
    assert float(said) >= 0


@pytest.mark.slow
def test_memory(script: Run, tmp_path: Path) -> None:
    said = script("benchmarks/memory.py", "--smoke", "--results", tmp_path)
    (row,) = content(tmp_path / "memory.smoke.json")["mebibytes"].values()
    assert row["predicted"] > 0 and row["measured"] > 0 and "predicted" in said


@pytest.mark.slow
def test_streaming(script: Run, tmp_path: Path) -> None:
    script("benchmarks/streaming.py", "--images", 200, "--results", tmp_path)
    found = content(tmp_path / "streaming.json")
    assert len(found["rows"]) == 2 and found["same_weights"]


@pytest.mark.slow
def test_torchrun(script: Run, tmp_path: Path) -> None:
    script("benchmarks/torchrun.py", "--smoke", "--results", tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.slow
def test_growth(script: Run, tmp_path: Path) -> None:
    """Every size is timed, and every slope has an expected one beside it."""
    said = script("benchmarks/growth.py", "--smoke", "--results", tmp_path)
    found = content(tmp_path / "growth.smoke.json")
    assert set(found["grows"]) == set(found["expected"]) and (tmp_path / "growth.smoke.png").is_file()
    for grows, row in found["grows"].items():
        assert grows in said and len(row["sizes"]) == len(row["seconds"]) == 2
        assert set(row["slopes"]) == set(found["expected"][grows])
        assert all(took > 0 for seconds in row["seconds"] for took in seconds.values())


@pytest.mark.slow
def test_gpu(script: Run, tmp_path: Path) -> None:
    """All of it on the CPU; without a GPU it measures nothing, and says so."""
    script("benchmarks/gpu.py", "--smoke", "--device", "cpu", "--results", tmp_path)
    found = content(tmp_path / "gpu.smoke.json")
    assert found["speed"]["small"]["cpu"]["step of 50"] > 0 and found["mebibytes"]["small"]["predicted"] > 0
    assert 0 <= found["fit"]["accuracy"] <= 1
    if not torch.cuda.is_available():
        assert "nothing was measured" in script("benchmarks/gpu.py", "--results", tmp_path)


@pytest.mark.slow
def test_search(script: Run, tmp_path: Path) -> None:
    file = tmp_path / "search.json"
    script("benchmarks/search.py", "--smoke", "--tasks", "quadrant-digit", "--results", file)
    (row,) = content(file)["rows"]
    assert row["search"]["proposals"] and not row["alone"]["proposals"]
    assert row["ratio"]["passes"] > 1


@pytest.mark.slow
def test_demo(script: Run, tmp_path: Path) -> None:
    said = script("demo.py", "--smoke", "--out", tmp_path)
    assert "failed" not in said and "quadrant-digit" in said
    for task in ("quadrant-digit", "quadrant"):
        assert (tmp_path / task / "report.json").is_file(), (tmp_path / f"{task}.log").read_text()


@pytest.mark.slow
def test_alternatives(script: Run, tmp_path: Path) -> None:
    file = tmp_path / "alternatives.json"
    options = ("--tasks", "planted-glyph", "--scale", "smoke", "--results", file)
    said = script("discovery/alternatives.py", *options)
    rows = content(file)["rows"]
    methods = ["symlearn", "gradient", "cross-validation", "greedy", "rpp", "conv by MAP"]
    assert [row["method"] for row in rows] == methods
    assert all(row["passes"] > 0 and sum(row["layers"].values()) == len(row["verdicts"]) for row in rows)
    assert all(f"| {method} |" in said for method in methods)
    again = script("discovery/alternatives.py", *options)
    assert "method" not in again.splitlines()[0] and content(file)["rows"] == rows, (
        "what is there is not rerun"
    )


@pytest.mark.slow
def test_refits_of_removals(removed: Path, script: Run, tmp_path: Path) -> None:
    """Intervals over repeated rounds, and differences from scratch, of a run's removals."""
    file = tmp_path / "coverage.json"
    said = script("discovery/coverage.py", removed, "--repeats", 3, "--results", file)
    (entry,) = content(file)["runs"].values()
    assert len(entry["rounds"]) == 3 and 0 <= entry["held"] <= entry["intervals"]
    assert f"{entry['held']} of {entry['intervals']} intervals" in said
    file = tmp_path / "refits.json"
    said = script("discovery/refits.py", removed, "--seeds", "0", "--results", file)
    (row,) = content(file)["rows"].values()
    assert set(row["scratch"]["0"]) == {"with", "without"}
    assert "signs agree" in said


def test_summary_of_the_planted_tasks(script: Run, tmp_path: Path) -> None:
    said = script("discovery/summary.py", "--results", tmp_path, "--figures", tmp_path)
    assert content(tmp_path / "planted-summary.json") == json.loads(said)
    committed = FOLDER / "discovery" / "results" / "planted-summary.json"
    assert content(tmp_path / "planted-summary.json") == content(committed)
    assert (tmp_path / "planted.png").is_file()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="commits are compared; this is no checkout")
@pytest.mark.slow
def test_graph_of_the_house(script: Run, tmp_path: Path) -> None:
    script("house/graph.py", "HEAD", "--results", tmp_path, "--figures", tmp_path)
    before, after = content(tmp_path / "graph.json")
    assert before["floors"] > 3 and after["floors"] > 3
    assert (tmp_path / "house.png").is_file()


@pytest.mark.slow
def test_learned_ranges(script: Run, tmp_path: Path) -> None:
    file = tmp_path / "ranges.json"
    chosen = ("--plant", "rotation-45", "--way", "learned", "--seeds", 0)
    script("discovery/ranges.py", "--smoke", *chosen, "--results", file, "--figures", tmp_path)
    (row,) = content(file)["rows"]
    assert row["ranges"]["rotation"] > 0 and (tmp_path / "ranges.png").is_file()
    assert "whole_evidence_per_image" not in row, "asked for, since it takes minutes"


@pytest.mark.slow
def test_eighth_turns(script: Run, tmp_path: Path) -> None:
    file = tmp_path / "eighths.json"
    said = script("gcnn/eighth_turns.py", "--seeds", 0, "--epochs", 1, "--results", file)
    assert [row["path"] for row in content(file)["rows"]] == ["gconv-p4", "gconv-c8"] and "gconv-c8" in said


@pytest.mark.slow
def test_laplace_predictions(script: Run, tmp_path: Path) -> None:
    size = ("--epochs", 2, "--limit", 60, "--alpha", 1)
    said = script("laplace/predictives.py", *size, "--seeds", 0, "--selections", "none", "--out", tmp_path)
    (row,) = content(tmp_path / "digits.json")["rows"]
    assert all(0 <= scored["accuracy"] <= 1 and scored["nll"] > 0 for scored in row["scores"].values())
    assert "all, ekfac, cold" in said


@pytest.mark.slow
def test_robustness(script: Run, tmp_path: Path) -> None:
    said = script("robustness/matrix.py", "--set", "smoke", "--results", tmp_path, "--figures", tmp_path)
    (row,) = content(tmp_path / "smoke.json")["rows"].values()
    assert row["exit"] == 0, row["said"]
    assert "1 are left" in said and (tmp_path / "robustness-smoke.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("name", "network"),
    [("layerwise/quadrant_digits.py", "conv-map"), ("layerwise/sparse_digits.py", "sparse-lengthscale")],
)
def test_digits_in_quadrants(name: str, network: str, script: Run, tmp_path: Path) -> None:
    options = ("--scale", "smoke", "--seeds", 0, "--networks", network, "--runs", tmp_path)
    said = script(name, *options)
    found = content(tmp_path / f"{Path(name).stem}.json")
    assert found["scale"] == "smoke" and network in said
    assert [row["task"] for row in found["rows"]] == ["quadrant-digit", "quadrant"]
    assert not any("stopped" in row for row in found["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_has_its_network(name: str) -> None:
    """At the smoke scale: its data are there without a network, and what it describes can be built and run."""
    experiment = read_experiment(name, FOLDER)
    built: dict[str, torch.Size] = {}
    for row in experiment.rows_at("smoke"):
        options = experiment.options(row, "smoke")
        key = str({k: v for k, v in options.items() if k not in ("data", "task", "selection", "learn")})
        config, splits = load(Config().with_options(**options))
        if key not in built:
            model = network_of(config, splits).eval()
            with torch.no_grad():
                built[key] = model(splits.train.tensors[0][:1]).shape
        assert built[key][0] == 1, row.label


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_every_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = known_experiments(FOLDER)[name]
    copied = tmp_path / "experiments" / source.parent.name
    copied.mkdir(parents=True)
    shutil.copy(source, copied)
    words = ["reproduce", name, "--scale", "smoke", "--experiments", str(copied.parent)]
    label = TABLES[name]
    assert run([*words, "--rows", label, "--runs", str(tmp_path / "runs")]) == 0
    rows = content(copied / "results" / f"{name}.smoke.json")["rows"]
    assert rows and not any("stopped" in row for row in rows)
    assert all(0 <= row["accuracy"] <= 1 and row["parameters"] > 0 for row in rows)
    assert rows[0]["label"] in capsys.readouterr().out
