"""What pretraining on scans without labels is worth where few are labelled: Dice of the validation fold, with and without it.

The planned U-Net first restores hidden parts of all scans of the training fold, without their labels (``medunet pretrain``);
the scans of the validation fold are kept apart from everything. Then some of the training cases, each set within the next
larger one, train it with labels, three times each:

- ``scratch``: from random weights, as ``medunet train`` does it;
- ``untrained``: with ``--from`` a pretraining of a single step, which has the plan of the pretraining (spacing, network,
  intensities, patch) but has learnt nothing: what of a difference is only the plan's;
- ``pretrained``: with ``--from`` the pretraining.

Budgets in iterations (``300it``) do not depend on what else the machine does.

    python benchmarks/bench_pretraining.py --data hippocampus-mr --cases 5,10,20 --pretraining-budget 1000it --budget 300it

Every result is written as soon as it is there: ``dice.csv`` in the output folder; started again, it adds what is missing. The
last lines are the table.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from pathlib import Path

import numpy as np

from medunet.tasks import read_dataset, split_fold
from medunet.training import pretrain, train

STARTS = ("scratch", "untrained", "pretrained")
Rows = dict[tuple[int, int, str], float]
"""Labelled cases, seed and start -> mean Dice."""


def main() -> None:
    """Pretrain once, train every setting, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="labelled dataset")
    parser.add_argument("--task", default="hippocampus-mr")
    parser.add_argument("--fold", type=int, default=0, help="that validates")
    parser.add_argument("--cases", type=_parse_numbers, default=(5, 10, 20), help="labelled cases, such as 5,10,20")
    parser.add_argument("--validation-cases", type=int, default=None, help="of the fold; default: all of it")
    parser.add_argument("--seeds", type=_parse_numbers, default=(0,), help="of cases and weights, such as 0,1,2")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--pretraining-budget", default="10min")
    parser.add_argument("--budget", default="2min", help="of every training with labels")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/bench-pretraining"))
    arguments = parser.parse_args()
    logging.getLogger("medunet").setLevel(logging.ERROR)
    sources = {
        "scratch": None,
        "untrained": _pretrain(arguments, "untrained", "1it"),
        "pretrained": _pretrain(arguments, "pretrained", arguments.pretraining_budget),
    }
    path = arguments.output / "dice.csv"
    rows = read_rows(path)
    for seed in arguments.seeds:
        for number in arguments.cases:
            for start in arguments.starts:
                if (number, seed, start) not in rows:
                    rows[number, seed, start] = _train(arguments, number, seed, start, sources[start])
                    print(f"{number} cases, seed {seed}, {start}: Dice {rows[number, seed, start]:.4f}", flush=True)
                    write_rows(path, rows)
    print(format_table(rows, arguments.cases, arguments.starts))


def _pretrain(arguments: argparse.Namespace, name: str, budget: str) -> Path:
    folder: Path = arguments.output / name
    if not (folder / "report.html").is_file():  # the last file that is written
        result = pretrain(
            arguments.data,
            output=folder,
            resume=folder.is_dir(),
            task=arguments.task,
            fold=arguments.fold,
            budget=budget,
            device=arguments.device,
        )
        assert result.record.score is not None
        score = result.record.score
        print(
            f"{name}: {result.num_iterations} iterations in {result.seconds:.0f} s, error {score.error:.3f} of {score.error_of_mean:.3f}"
        )
    return folder


def _train(arguments: argparse.Namespace, number: int, seed: int, start: str, source: Path | None) -> float:
    """Mean Dice of the validation fold after training on a few cases."""
    training, validation = split_fold(read_dataset(arguments.data), arguments.fold)
    order = np.random.default_rng(seed).permutation(len(training))[:number]
    fold = {
        "train": [training[index].case_id for index in order.tolist()],
        "val": [case.case_id for case in validation[: arguments.validation_cases]],
    }
    splits = arguments.output / f"splits-{number}-{seed}.json"
    splits.write_text(json.dumps([fold]))
    result = train(
        arguments.task,
        arguments.data,
        output=arguments.output / f"{start}-{number}-{seed}",
        splits=splits,
        fold=0,
        budget=arguments.budget,
        from_model=source,
        device=arguments.device,
        seed=seed,
        resume="auto",
    )
    assert result.evaluation is not None
    assert result.evaluation.mean_dice is not None
    return result.evaluation.mean_dice


def read_rows(path: Path) -> Rows:
    """What earlier calls found."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(int(row["cases"]), int(row["seed"]), row["start"]): float(row["dice"]) for row in csv.DictReader(file)}


def write_rows(path: Path, rows: Rows) -> None:
    """All results so far."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cases", "seed", "start", "dice"])
        writer.writerows([*key, f"{dice:.4f}"] for key, dice in rows.items())


def format_table(rows: Rows, cases: tuple[int, ...], starts: tuple[str, ...]) -> str:
    """A line per number of cases, a column per start: the mean over seeds, and their range where there are several.

    Example:
        >>> print(format_table({(5, 0, "scratch"): 0.7, (5, 1, "scratch"): 0.8}, (5,), ("scratch",)))
        | labelled cases | scratch |
        |---:|---:|
        | 5 | 0.750 (0.700 to 0.800) |
    """
    lines = [f"| labelled cases | {' | '.join(starts)} |", f"|{'---:|' * (len(starts) + 1)}"]
    for number in cases:
        cells = []
        for start in starts:
            dices = [dice for (one, _, other), dice in rows.items() if (one, other) == (number, start)]
            text = f"{np.mean(dices):.3f}" if dices else "-"
            cells.append(f"{text} ({min(dices):.3f} to {max(dices):.3f})" if len(dices) > 1 else text)
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
