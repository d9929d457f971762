"""What each figure of Task 1 shows, as plain data: {file name: (drawing function, data, title)}."""

from __future__ import annotations

import statistics

import numpy as np

from engine.records import SUBSETS
from grids.task1 import FIGURE_MODELS, LENGTHS, SPECIALISTS
from report import figures
from report.compare import Setting
from report.task1.lines import SEVEN, Line, lines_of

KINDS = ("channels", "map", "curves", "length")


def make_figures(setting: Setting) -> dict[str, tuple]:
    """Every figure that the setting has data for."""
    lines = lines_of(setting, "test")
    where, made = f"{setting.dataset}, {setting.image_size} px, preset {setting.preset}", {}
    for kind, draw, data, title in (
        ("channels", figures.channel_bars, _bars(setting, lines), "top-1 by channels present, test split"),
        ("map", figures.subset_map, _map(lines), "top-1 by model and channels present, test split"),
        ("curves", figures.lines, _curves(setting), "training curves, validation split, seed 0"),
        ("length", figures.lines, _lengths(setting), "accuracy against training compute, test split"),
    ):
        if data:
            made[f"task1_{kind}_{setting.preset}_{setting.dataset}.png"] = (draw, data, f"{where}: {title}")
    return made


def _chosen(setting: Setting, lines: list[Line]) -> dict[str, Line]:
    """Name in the legend -> line, of the models that figures with little room show, in their order."""
    by_entry = {
        entry: line for line in lines for entry in line.entries.values() if line.section != "specialist"
    }
    chosen = {name: by_entry.get(setting.find(run)) for name, run in FIGURE_MODELS.items()}
    chosen[SEVEN] = next((line for line in lines if line.name == SEVEN), None)
    return {name: line for name, line in chosen.items() if line is not None}


def _named(line: Line) -> str:
    """A line's label, with what tells it from others of the label."""
    test, epochs, augment = line.told()
    told = [test] * (test != "as trained") + [f"{epochs} epochs"] * (epochs != "30")
    return line.name + f" ({', '.join(told)})" * bool(told)


def _means(line: Line, column: str) -> dict[str, float]:
    return {subset: line.mean(column, subset) for subset in line.entries}


def _complete(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.entries.keys() >= set(SUBSETS)]


def _bars(setting: Setting, lines: list[Line]):
    return [
        {
            "name": name,
            "top1": _means(line, "top1_pct"),
            "low": _means(line, "ci95_low"),
            "high": _means(line, "ci95_high"),
        }
        for name, line in _chosen(setting, lines).items()
    ]


def _map(lines: list[Line]):
    best_first = sorted(_complete(lines), key=lambda line: -sum(_means(line, "top1_pct").values()))
    return [{"name": _named(line), "top1": _means(line, "top1_pct")} for line in best_first]


def _curves(setting: Setting):
    panels = [
        {"x": "epoch", "y": "training loss", "series": []},
        {"x": "epoch", "y": "top-1 on the sets it is for, mean (%)", "series": []},
    ]
    trained = {name: {"RGB": run} for name, run in FIGURE_MODELS.items() if not run.test}
    for name, runs in {**trained, "specialists, mean": SPECIALISTS}.items():
        histories = {
            subset: setting.records[setting.find(run), 0]["history"]
            for subset, run in runs.items()
            if (setting.find(run), 0) in setting.records
        }
        if not histories or not all(histories.values()):
            continue
        for panel, key in zip(panels, ("loss", "val_mean_pct")):
            lines = [[line for line in history if key in line] for history in histories.values()]
            # the RGB specialist was validated on every set
            own = len(runs) > 1 and key == "val_mean_pct"
            values = [
                [line["val_top1_pct"][subset] if own else line[key] for line in kept]
                for subset, kept in zip(histories, lines)
            ]
            panel["series"].append(
                {
                    "name": name,
                    "x": [line["epoch"] for line in lines[0]],
                    "y": np.mean(values, axis=0).tolist(),
                }
            )
    return panels[0]["series"] and {"panels": panels}


def _lengths(setting: Setting):
    panel = {
        "x": "epochs, all networks together",
        "y": "top-1, mean of the seven sets (%)",
        "log": True,
        "series": [],
    }
    for name, points in LENGTHS.items():
        known = [(epochs, model) for epochs, run in points if (model := setting.model(run))]
        values = [
            statistics.fmean(100 * setting.correct(model, (subset,)).mean() for subset in SUBSETS)
            for _, model in known
        ]
        if known:
            panel["series"].append(
                {"name": name, "x": [epochs for epochs, _ in known], "y": values, "apart": len(known) < 3}
            )
    return any(len(series["x"]) > 1 for series in panel["series"]) and {"panels": [panel]}
