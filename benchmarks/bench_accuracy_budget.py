"""Dice of the validation fold after the same minutes of training: medunet beside nnU-Net, on this machine.

medunet is ``medunet train --budget``, one training per budget: it fits plan and schedule to the minutes, of which
compiling, saving and looking at validation cases are part. nnU-Net trains its own plan by its own recipe, with its own
loader and processes; its poly learning rate falls over exactly the minutes, all of which go into training iterations (its
validation iterations, pictures and checkpoints are left out). On the way its weights are validated a few times while the
clock stands. Both train on the same cases; masks come from each tool's own predictor (nnU-Net averages eight mirrored
passes, medunet takes one), without post-processing, and are scored by medunet on the cases' own grids. Preprocessing and
planning count for neither.

    .venv-peers/bin/python benchmarks/bench_accuracy_budget.py --data hippocampus-mr --minutes 5,15 -o accuracy

Every result is written as soon as it is there: ``accuracy/dice.csv`` and ``accuracy/dice.png``. Started again with the
same folder, it adds to them.
"""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from peers.environment import require_nnunet
from peers.nnunet_runs import RunNnunet, open_nnunet

from medunet.device import choose_device
from medunet.evaluation import Evaluation
from medunet.tasks import load_task, read_dataset, split_fold
from medunet.training import train
from medunet.training.validation import Validation

TOOLS = ("medunet", "nnU-Net")
LOOKS = (0.25, 0.5, 0.75)
"""Shares of a budget at which nnU-Net's weights are validated, besides the end."""
Row = dict[str, str]


def main(words: Sequence[str] | None = None) -> None:
    """Train both tools for every budget, and print, write and draw what they reach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset folder; one file per channel")
    parser.add_argument("--task", default="hippocampus-mr")
    parser.add_argument("--fold", type=int, default=0, help="that validates")
    parser.add_argument("--minutes", type=_parse_minutes, default=(5.0, 15.0), help="budgets, such as 5,15")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/accuracy-budget"), help="gets CSV and picture")
    arguments = parser.parse_args(words)
    if "nnU-Net" in arguments.tools:
        require_nnunet()
    logging.getLogger("medunet").setLevel(logging.ERROR)
    table = Table(arguments.output)
    if "medunet" in arguments.tools:
        for minutes in arguments.minutes:
            run_medunet(arguments, minutes, table)
    if "nnU-Net" in arguments.tools:
        task, device = load_task(arguments.task), choose_device(arguments.device)
        training, validation = split_fold(read_dataset(arguments.data), arguments.fold)
        with open_nnunet(training, validation, task, device) as run:
            for minutes in arguments.minutes:
                run_nnunet(run, minutes, table, seed=arguments.seed)


def run_medunet(arguments: argparse.Namespace, minutes: float, table: Table) -> None:
    """One training of exactly these minutes."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            arguments.task,
            arguments.data,
            output=Path(folder) / "run",
            budget=f"{60 * minutes:g}s",
            fold=arguments.fold,
            device=arguments.device,
            seed=arguments.seed,
        )
    assert isinstance(result.evaluation, Validation)
    table.add("medunet", minutes, result.seconds, result.num_iterations, result.evaluation.raw)


def run_nnunet(run: RunNnunet, minutes: float, table: Table, *, seed: int) -> None:
    """One training of exactly these minutes, validated on the way."""

    def record(iteration: int, seconds: float, evaluation: Evaluation) -> None:
        table.add("nnU-Net", minutes, seconds, iteration, evaluation)

    run(seed, lambda iteration, seconds: seconds / (60 * minutes), record, looks=LOOKS)


class Table:
    """Rows of ``dice.csv`` in a folder, and their picture; rows that are there already stay."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "dice.csv"
        self._rows: list[Row] = []
        if self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                self._rows = list(csv.DictReader(file))

    def add(self, tool: str, budget: float, seconds: float, iterations: int, evaluation: Evaluation) -> None:
        """Print, write and draw one result."""
        row = build_row(tool, budget, seconds, iterations, evaluation)
        self._rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self._rows)
        draw(self._rows, self._path.with_suffix(".png"))


def build_row(tool: str, budget: float, seconds: float, iterations: int, evaluation: Evaluation) -> Row:
    """One line of the CSV."""
    assert evaluation.mean_dice is not None
    row = {"tool": tool, "budget_min": f"{budget:g}", "minutes": f"{seconds / 60:.2f}", "iterations": str(iterations)}
    row["mean_dice"] = f"{evaluation.mean_dice:.4f}"
    return row | {summary.label: f"{summary.mean:.4f}" for summary in evaluation.summaries}


def draw(rows: list[Row], path: Path) -> None:
    """Mean Dice over minutes: a line per training of nnU-Net, and one through the ends of medunet's trainings."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for name, style, points in list_lines(rows):
        axes.plot([minutes for minutes, _ in points], [dice for _, dice in points], style, label=name)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("mean Dice of the validation cases")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def list_lines(rows: list[Row]) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Name, style and points of every line."""
    ends = [row for row in rows if row["tool"] == "medunet"]
    if ends:
        yield "medunet, one training per budget", "o-C0", sorted(map(_get_point, ends))
    others = [row for row in rows if row["tool"] != "medunet"]
    for number, budget in enumerate(sorted({float(row["budget_min"]) for row in others}), start=1):
        points = sorted(_get_point(row) for row in others if float(row["budget_min"]) == budget)
        yield f"nnU-Net, budget of {budget:g} min", f"s--C{number}", points


def _get_point(row: Row) -> tuple[float, float]:
    return float(row["minutes"]), float(row["mean_dice"])


def _parse_minutes(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    main()
