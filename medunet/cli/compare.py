"""``medunet compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import JsonFileOption, JsonOption, check_page_name
from medunet.cli.scoring import (
    Beta,
    LabelMap,
    LabelTask,
    Resample,
    Surface,
    Tolerance,
    build_settings,
    check_names,
    list_files,
)
from medunet.cli.terminal import build_console, print_json
from medunet.errors import InputError, OutputError

if TYPE_CHECKING:
    from medunet.evaluation import Comparison, Evaluation


def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="A B [C...] LABELS", help="Folders of masks, then the references.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV with a row per metric, label and pair of sets.")
    ] = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Which to compare, by the columns of scores.csv, with commas between.")
    ] = "dice,nsd,hd95_mm",
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Also score the sets against each other, as raters.")
    ] = False,
    task: LabelTask = None,
    mapping: LabelMap = None,
    tolerance: Tolerance = None,
    surface: Surface = "elements",
    beta: Beta = 2.0,
    resample: Resample = False,
    images: Annotated[Path | None, typer.Option("--images", help="Scans, for RTSTRUCT.")] = None,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="PNG of the differences with their intervals.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Page with ranking, differences and every case, in one file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files.")] = False,
) -> None:
    """Compare sets of masks of the same cases: paired differences, Wilcoxon with Holm, stability of the ranking."""
    import itertools

    from medunet.cli.case_progress import CaseProgress
    from medunet.evaluation import compare_evaluations, evaluate
    from medunet.evaluation.pairing import pair_sources
    from medunet.io import check_output, write_bytes_atomic, write_json_atomic
    from medunet.tasks import load_task, parse_mapping

    if len(paths) < 3:
        msg = (
            f"{len(paths)} path(s) were given; expected two or more sets of masks and then the references. To score one "
            "set, or two raters against each other, use medunet evaluate."
        )
        raise InputError(msg)
    *sets, labels = paths
    names = _name_sets(sets)
    chosen = _parse_metrics(metrics)
    recipe = None if task is None else load_task(task)
    settings = build_settings(tolerance, surface, recipe, beta=beta)
    names_in_files = parse_mapping(mapping or ())
    inputs = [file for path in paths for file in list_files(path)]
    check_page_name(html)
    outputs = [path for path in (output, json_file, picture, html) if path is not None]
    for path in outputs:
        check_output(path, inputs, overwrite=overwrite)
    if len({path.absolute() for path in outputs}) < len(outputs):
        msg = f"Several results would be written to {outputs[0]}; give them different names."
        raise OutputError(msg)
    if picture is not None and picture.suffix.lower() != ".png":
        msg = f"The picture {picture} would be a PNG; expected a name ending in .png."
        raise OutputError(msg)

    to_score = {name: (path, labels) for name, path in zip(names, sets, strict=True)}
    rater_pairs = {
        f"{one} and {other}": (second, first)
        for (one, first), (other, second) in itertools.combinations(zip(names, sets, strict=True), 2)
        if agreement
    }
    num_pairs = sum(len(pair_sources(*pair).pairs) for pair in (*to_score.values(), *rater_pairs.values()))
    with CaseProgress("scoring", num_pairs) as progress:

        def score(masks: Path, references: Path) -> Evaluation:
            return evaluate(
                masks,
                references,
                task=recipe,
                settings=settings,
                mapping=names_in_files,
                images=images,
                resample=resample,
                on_case=progress.on_case,
            )

        evaluations = {name: score(*pair) for name, pair in to_score.items()}
        raters = {name: score(*pair) for name, pair in rater_pairs.items()}
    comparison = compare_evaluations(evaluations, chosen)
    if output is not None:
        _write_csv(comparison, output)
    content = _describe(comparison, evaluations, raters, chosen)
    if json_file is not None:
        write_json_atomic(json_file, content)
    if picture is not None:
        from medunet.reporting.comparison_chart import draw_differences

        write_bytes_atomic(picture, draw_differences(comparison))
    if html is not None:
        from medunet.reporting import write_comparison_page

        sources = {"references": labels.name} | ({} if recipe is None else {"task": f"{recipe.name}: {recipe.title}"})
        write_comparison_page(comparison, evaluations, html, raters=raters, sources=sources)
    if as_json:
        print_json(content)
    else:
        _print(comparison, evaluations, raters, chosen, outputs)
    _report_failures(evaluations | raters)
    check_names(names_in_files, settings, evaluations.values())


def _name_sets(sets: list[Path]) -> list[str]:
    """The last part of each path; with the part before it where two would be the same."""
    names = [path.resolve().name for path in sets]
    if len(set(names)) < len(names):
        names = ["/".join(path.resolve().parts[-2:]) for path in sets]
    if len(set(names)) < len(names):
        msg = f"Two of the sets have the name {max(names, key=names.count)}; expected different folders."
        raise InputError(msg)
    return names


def _parse_metrics(text: str) -> list[str]:
    from medunet.evaluation import METRICS

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        msg = f"--metrics is '{text}'; expected some of {', '.join(METRICS)}."
        raise InputError(msg)
    return names


def _write_csv(comparison: Comparison, path: Path) -> None:
    from medunet.evaluation import PairedDifference
    from medunet.evaluation.tables import write_csv

    columns = list(PairedDifference.__dataclass_fields__)
    write_csv(path, columns, ([getattr(row, name) for name in columns] for row in comparison.differences))


def _describe(
    comparison: Comparison, evaluations: dict[str, Evaluation], raters: dict[str, Evaluation], metrics: list[str]
) -> dict[str, object]:
    from medunet.evaluation import give_joint_advice, summarize_metrics

    def summarize(found: dict[str, Evaluation]) -> dict[str, object]:
        return {
            name: [asdict(summary) for summary in summarize_metrics(evaluation.scores, metrics)]
            for name, evaluation in found.items()
        }

    advice = give_joint_advice(evaluations)
    return {**asdict(comparison), "advice": advice, "sets": summarize(evaluations), "agreement": summarize(raters)}


def _print(
    comparison: Comparison,
    evaluations: dict[str, Evaluation],
    raters: dict[str, Evaluation],
    metrics: list[str],
    written: list[Path],
) -> None:
    from rich.text import Text

    from medunet.evaluation import give_joint_advice
    from medunet.reporting.score_table import build_difference_table, build_metric_table, build_ranking_table

    console = build_console()
    for metric in metrics:
        console.print(build_difference_table(comparison, metric))
    console.print(build_ranking_table(comparison.rankings))
    for name, evaluation in raters.items():
        console.print(Text(f"Agreement of {name}"), style="bold")
        console.print(build_metric_table(evaluation, metrics))
    for text in give_joint_advice(evaluations):
        console.print(Text(f"note: {text}"), soft_wrap=True)
    for text in comparison.left_out:
        console.print(Text(f"warning: {text}"), soft_wrap=True)
    for path in written:
        print(f"Written: {path}")


def _report_failures(found: dict[str, Evaluation]) -> None:
    failures = [
        f"{name}: {failure.case_id}: {failure.reason}"
        for name, evaluation in found.items()
        for failure in evaluation.failures
    ]
    if failures:
        msg = f"{len(failures)} case(s) could not be scored; the first is {failures[0]}"
        raise InputError(msg)
