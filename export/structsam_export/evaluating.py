"""Evaluate models one after the other, and write tables and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from structsam_runtime.evaluation.datasets import Dataset
from structsam_runtime.evaluation.plots import parted, plot, plot_choices
from structsam_runtime.evaluation.report import as_csv, markdown, report
from structsam_runtime.evaluation.results import Results
from structsam_runtime.evaluation.run import evaluate
from structsam_runtime.files import whole_file

from .subjects import Subject


def evaluate_all(subjects: Sequence[Subject], dataset: Dataset, results: Results) -> None:
    """Evaluate one model after the other with a progress bar; finished pictures are skipped.

    Args:
        subjects: the models.
        dataset: the pictures and objects.
        results: reads and stores the results of each picture.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        overall = bar.add_task("pictures of all models", total=len(subjects) * len(dataset))
        for subject in subjects:
            task = bar.add_task(subject.name, total=len(dataset))
            with subject.open() as predictor:
                for _ in evaluate(subject.name, predictor, dataset, results):
                    bar.advance(task)
                    bar.advance(overall)
            bar.remove_task(task)


def write(output: Path, what: Mapping[str, Any], results: Results) -> str:
    """Write the tables of all results under `output`, and the plots of this dataset.

    Args:
        output: the folder of results.
        what: the facts that the models share: architecture, weights, image size, machine.
        results: the results of this dataset.

    Returns:
        The tables as Markdown.
    """
    summaries = report(output)
    tables = markdown(what, summaries)
    for name, text in (("tables.md", tables), ("tables.csv", as_csv(summaries))):
        with whole_file(output / name) as part:
            part.write_text(text, encoding="utf-8")
    if mine := [summary for summary in summaries if summary.dataset == results.folder.name]:
        lines, choices = parted(mine)
        with whole_file(output / f"{results.folder.name}.png") as part:
            plot(lines, part)
        if choices:
            with whole_file(output / f"{results.folder.name}-choices.png") as part:
                plot_choices(choices, part)
    return tables
