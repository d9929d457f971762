"""Everything that is generated from Task 2's results: comparisons, figures and Markdown blocks."""
from __future__ import annotations

from pathlib import Path

from report.comparisons import to_csv
from report.content import Content, figure_blocks, published_rows
from report.records import load_records
from report.task2.analysis import ABLATION_COLUMNS, RATIO_COLUMNS, RATIO_DECIMALS, ablations, headline, mistakes, ratios, trainings
from report.task2.figure_data import make_figures
from report.task2.rows import RESULTS, settings
from report.task2.tables import ablation_table, cost_table, main_table, mistakes_table

FILE = "results/task2_classifiers.csv"
FIGURE_KINDS = ("depth", "cost", "field", "confusion", "classes", "curves", "fraction")
NO_RESULTS = "No results yet: run `python experiments.py task2`."


def load_rows(root: Path) -> list[dict]:
    return published_rows(RESULTS, root / FILE)


def make_content(root: Path) -> Content:
    rows, records = load_rows(root), load_records(root, "task2")
    shares, variants = ratios(rows, records, root / "results"), ablations(rows, root / "results")
    figures = make_figures(rows, records, shares, root / "results")
    texts = {"results/task2_ratios.csv": to_csv(shares, RATIO_COLUMNS, RATIO_DECIMALS),
             "results/task2_ablations.csv": to_csv(variants, ABLATION_COLUMNS)} if rows else {}
    trained = trainings(records)
    denominators = {setting: headline(rows, trained, setting)[1] for setting in settings(rows, "test")}
    blocks = {"task2-main": main_table(rows, shares, trained), "task2-cost": cost_table(rows, records, denominators),
              "task2-ablations": ablation_table(variants), "task2-mistakes": mistakes_table(mistakes(rows, trained, root / "results")),
              **figure_blocks("task2", FIGURE_KINDS, figures)}
    return Content(len(rows), texts, figures, {name: text or NO_RESULTS for name, text in blocks.items()})
