"""Everything that is generated from Task 2's results: comparisons, figures and Markdown blocks."""

from __future__ import annotations

from pathlib import Path

from grids.task2 import ABLATIONS, REFERENCE
from report.compare import ablations, csv_of, load_settings
from report.content import NO_RESULTS, Content
from report.task2.compare import RATIOS, VARIANTS, headline, mistakes, ratios
from report.task2.figures import KINDS, make_figures
from report.task2.tables import cost_table, main_table, mistakes_table, variant_table

POINTS = dict.fromkeys(
    ("top1_pct", "top1_sd", "denominator_top1_pct", "difference_points", "ci95_low", "ci95_high"), 2
)
SHARES = dict.fromkeys(("ratio", "ci95_low", "ci95_high"), 4)
WHOLE = dict.fromkeys(("strict_depth", "macs", "seeds"), 0)


def make_content(root: Path) -> Content:
    texts, settings = load_settings(root, "task2")
    shares = {setting.key: ratios(setting) for setting in settings}
    variants = {setting.key: ablations(setting, ABLATIONS, REFERENCE) for setting in settings}
    if settings:
        texts["results/task2/ratios.csv"] = csv_of(shares, RATIOS, {**POINTS, **WHOLE, **SHARES})
        texts["results/task2/ablations.csv"] = csv_of(variants, VARIANTS, {**POINTS, **WHOLE})
    tables = {
        "main-all": lambda setting: main_table(setting, shares[setting.key]),
        "cost": lambda setting: cost_table(setting, headline(setting)[1]),
        "ablations-all": lambda setting: variant_table(setting, variants[setting.key]),
        "mistakes": lambda setting: mistakes_table(setting, mistakes(setting)),
    }
    made = {f"task2-{name}": "\n\n".join(filter(None, map(make, settings))) for name, make in tables.items()}
    figures = {
        name: figure
        for setting in settings
        for name, figure in make_figures(setting, shares[setting.key]).items()
    }
    no_results = NO_RESULTS.format(command="python experiments.py task2")
    return Content(
        sum(len(setting.rows) for setting in settings),
        texts,
        figures,
        {name: text or no_results for name, text in made.items()},
        KINDS,
        no_results,
        settings,
    )
