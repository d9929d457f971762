"""Everything that is generated from Task 1's results: comparisons, figures and Markdown blocks."""
from __future__ import annotations

from pathlib import Path

from report.comparisons import to_csv
from report.content import Content, figure_blocks, published_rows
from report.records import load_records
from report.task1.analysis import ABLATION_COLUMNS, STATS_COLUMNS, ablations, compare_models
from report.task1.figure_data import make_figures
from report.task1.rows import RESULTS, SPECIALISTS
from report.task1.tables import ablation_table, channel_table, cost_table, detail_table, stats_table

FILE = "results/task1_channels.csv"
FIGURE_KINDS = ("channels", "map", "cost", "retention", "curves", "length", "kernels", "classes", "confusion")
NO_RESULTS = "No results yet: run `python train_task1.py`, then `python -m report.build`."


def load_rows(root: Path) -> list[dict]:
    return published_rows(RESULTS, root / FILE)


def make_content(root: Path) -> Content:
    rows, records = load_rows(root), load_records(root, "task1")
    statistics, variants = compare_models(rows, root / "results"), ablations(rows, root / "results")
    figures = make_figures(rows, records, root / "results")
    texts = {"results/task1_stats.csv": to_csv(statistics, STATS_COLUMNS),
             "results/task1_ablations.csv": to_csv(variants, ABLATION_COLUMNS)} if rows else {}
    detailed = sorted({row["model"] for row in rows if row["role"] in ("ours", "baseline")}) + [SPECIALISTS]
    train_s = {key: record["train_s"] for key, record in records.items()}
    blocks = {"task1-channels": channel_table(rows), "task1-detail": detail_table(rows, detailed),
              "task1-cost": cost_table(rows, train_s), "task1-stats": stats_table(statistics), "task1-ablations": ablation_table(variants),
              **figure_blocks("task1", FIGURE_KINDS, figures)}
    return Content(len(rows), texts, figures, {name: text or NO_RESULTS for name, text in blocks.items()})
