"""Everything that is generated from Task 1's results: comparisons, figures and Markdown blocks."""

from __future__ import annotations

from pathlib import Path

from data.derive import CHANNELS
from engine.records import SUBSETS
from grids.task1 import ABLATIONS, CHANNELSET
from report.compare import ablations, csv_of, load_settings
from report.content import NO_RESULTS, Content
from report.task1 import bands
from report.task1.compare import STATS, VARIANTS, compare_models
from report.task1.figures import KINDS, make_figures
from report.task1.tables import channel_table, cost_table, detail_table, stats_table, variant_table

DECIMALS = dict.fromkeys((*SUBSETS, "mean_pct", "mean_sd", "difference_points", "ci95_low", "ci95_high"), 2)


def make_content(root: Path) -> Content:
    texts, settings = load_settings(root, "task1")
    compared = {setting.key: compare_models(setting) for setting in settings}
    variants = {setting.key: ablations(setting, ABLATIONS, CHANNELSET) for setting in settings}
    files = {"stats.csv": (compared, STATS), "ablations.csv": (variants, VARIANTS)}
    if settings:
        texts |= {f"results/task1/{name}": csv_of(*lines, DECIMALS) for name, lines in files.items()}
    tables = {
        "channels": channel_table,
        "detail": detail_table,
        "cost": cost_table,
        "stats": lambda setting: stats_table(setting, compared[setting.key]),
        "ablations-all": lambda setting: variant_table(setting, variants[setting.key]),
    }
    made = {f"task1-{name}": "\n\n".join(filter(None, map(make, settings))) for name, make in tables.items()}
    figures = {name: figure for setting in settings for name, figure in make_figures(setting).items()}
    by_data = {
        folder.name: bands.load_networks(folder) for folder in sorted((root / "results" / "bands").glob("*"))
    }
    texts |= {
        f"results/bands/{name}/scores.csv": csv_of(
            {(): bands.score_lines(networks)}, bands.SCORES, {"top1_pct": 2, "top1_sd": 2}
        )
        for name, networks in by_data.items()
    }
    networks = next((by_data[name] for name in by_data if name.startswith("eurosat")), [])
    extra = {
        name.rpartition("-")[2]: by_data[name] for name in by_data if name.rpartition("-")[2] in CHANNELS
    }
    rgb = next(
        (setting for setting in settings if setting.key == ("48px-quarter", "mini-imagenet-50", 48)), None
    )
    made |= {"task1-extra": bands.extra_table(extra, rgb)}
    made |= {
        "task1-bands": bands.accuracy_table(networks),
        "task1-bands-differences": bands.difference_table(networks),
        "task1-bands-unseen": bands.unseen_table(networks),
    }
    figures |= bands.make_figure(networks)
    no_results = NO_RESULTS.format(command="python train_task1.py")
    return Content(
        sum(len(setting.rows) for setting in settings),
        texts,
        figures,
        {name: text or no_results for name, text in made.items()},
        (*KINDS, "bands"),
        no_results,
        settings,
    )
