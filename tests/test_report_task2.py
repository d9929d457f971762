"""Task 2: results file, ratios, ablations, tables, figures, and the check that documents follow them. All numbers are made up."""
import csv
import json
import math

import numpy as np
import pytest

from evaluation import write_predictions
from metrics import classification_metrics, holm, student_t_p, student_t_quantile
from report import build, figures, pictures
from report.comparisons import by_setting
from report.records import load_records
from report.task2 import analysis, figure_data
from report.task2.analysis import SAME_STEM, STRONGEST, Models, ablations, denominator, headline, mistakes, ratios
from report.task2.content import FIGURE_KINDS, FILE, load_rows, make_content
from report.task2.figure_data import make_figures
from report.task2.rows import RESULTS, best, settings
from report.task2.tables import ablation_table, cost_table, main_table, mistakes_table
from test_report import LABELS, cells, write_documents, write_run
from utils import UserError

SETTING = ("laptop", "toy", 32)


def make_row(model="gated", role="ours", top1=50.0, **changes):
    return {"tier": "laptop", "dataset": "toy", "image_size": 32, "role": role, "model": model, "seed": 0, "split": "test",
            "top1_pct": top1, "ci95_low": top1 - 2, "ci95_high": top1 + 2, "precision_macro": 0.5, "recall_macro": 0.5,
            "f1_macro": 0.5, "strict_depth": 6, "train_depth": 11, "params": 1_000_000, "macs": 10_000_000,
            "latency_ms_b1": 2.0, "latency_ms_b256": 200.0, "peak_mem_mb": 12.5, "train_s": 90.0, **changes}


def add_model(root, model, role, accuracy, seeds=(0, 1), spread=0, val=None, **changes):
    """Rows, predictions and record of a model right on the first `accuracy` + seed * `spread` images, shifted by 3 a seed."""
    for seed in seeds:
        correct = np.roll(np.arange(100) < accuracy + seed * spread, 3 * seed)
        predictions = np.where(correct, LABELS, (LABELS + 1) % 4)
        stem = f"task2-laptop-toy-32px-{model}-s{seed}"
        test = make_row(model, role, seed=seed, **classification_metrics(LABELS, predictions, 4) | changes)
        RESULTS.upsert(root / FILE, [test, {**test, "split": "val", "top1_pct": accuracy if val is None else val}])
        record = {"task": "task2", **{key: test[key] for key in (*analysis.SETTING, "model", "seed")}, "weighted_operations": 30,
                  "history": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5, "val_top1_pct": 40.0}]}
        if model == "gated":
            record["receptive_field"] = {"size_px": 5, "profile": [0.2, 0.6, 0.9, 1.0], "input_px": 8}
        write_run(root, stem, {"predicted": predictions}, record)


@pytest.fixture
def root(tmp_path):
    """A repository with both documents and no results."""
    write_documents(tmp_path, make_content(tmp_path).blocks, "task2-main")
    return tmp_path


@pytest.fixture
def results(root, monkeypatch):
    """The same with two ResNet-34s, of which "long" is the better on validation, ours, a baseline, a student, an ablation."""
    for module, name, value in ((analysis, "TASK2_REFERENCE", "gated"),
                                (analysis, "TASK2_ABLATIONS", {"layer": [("all", "gated"), ("bare", "bare"), ("plain", "plain", "bare")],
                                                               "other": [("all", "gated"), ("not trained", "missing")]}),
                                (figure_data, "TASK2_FRACTIONS", {"gated": [(0.1, "bare"), (1.0, "gated")], "none": [(0.5, "missing")]})):
        monkeypatch.setattr(module, name, value)
    add_model(root, "short", "resnet34", 82, strict_depth=34, val=70)
    add_model(root, "long", "resnet34", 80, spread=2, strict_depth=34, val=75, latency_ms_b1=8.0)
    add_model(root, "gated", "ours", 72, spread=4)
    add_model(root, "plain", "ours", 78, seeds=(0,), val=60)
    add_model(root, "student", "distilled", 76, seeds=(0,))
    add_model(root, "narrow", "baseline", 60, seeds=(0,), strict_depth=10)
    add_model(root, "bare", "ablation", 64, seeds=(0,))
    return root


# ---------------------------------------------------------------- the file

def test_the_file_has_the_columns_in_order_and_sorts_by_role(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [make_row(f"{role}-net", role, split=split) for role in ("ablation", "distilled", "resnet34", "baseline", "ours")
            for split in ("val", "test")]
    RESULTS.upsert(path, [*rows, make_row("ours-net", latency_ms_b1=None, latency_ms_b256=None)])
    assert path.read_text().splitlines()[0] == (
        "tier,dataset,image_size,role,model,seed,split,top1_pct,ci95_low,ci95_high,precision_macro,recall_macro,f1_macro,"
        "strict_depth,train_depth,params,macs,latency_ms_b1,latency_ms_b256,peak_mem_mb,train_s")
    read = RESULTS.read(path)
    assert [(row["split"], row["role"]) for row in read] == [(split, role) for split in ("test", "val") for role in (
        "ours", "resnet34", "distilled", "baseline", "ablation")]
    assert read[0]["latency_ms_b1"] is None and read[1]["latency_ms_b1"] == 2.0 and read[0]["peak_mem_mb"] == 12.5


@pytest.mark.parametrize("changes, message", [({"role": "specialist"}, "unknown role 'specialist'"), ({"top1_pct": 101.0}, "outside 0..100"),
                                              ({"f1_macro": 1.5}, "outside 0..1")])
def test_bad_rows_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        RESULTS.upsert(tmp_path / "rows.csv", [make_row(**changes)])


# ---------------------------------------------------------------- comparisons

def test_the_denominator_is_chosen_on_validation(results):
    rows = load_rows(results)
    assert denominator(rows, {}, SETTING, "gated") == "long"   # short is better on test
    assert best(settings(rows, "val")[SETTING], "ours") == "gated"
    only_val = [row for row in rows if row["model"] != "long" or row["split"] == "val"]
    assert denominator(only_val, {}, SETTING, "gated") == "short" and denominator([], {}, SETTING, None) is None
    assert ratios([row for row in rows if row["role"] != "resnet34"], {}, results / "results") == []


def test_ratios_against_an_independent_computation(results):
    lines = {line["model"]: line for line in ratios(load_rows(results), {}, results / "results")}
    assert list(lines) == ["gated", "plain", "short", "student", "narrow"]   # no ablation; without records both comparisons are the same
    right = {model: np.array([np.roll(np.arange(100) < start + seed * spread, 3 * seed) for seed in range(seeds)], float)
             for model, start, spread, seeds in (("long", 80, 2, 2), ("gated", 72, 4, 2), ("plain", 78, 0, 1), ("short", 82, 0, 2))}
    variance, df = (2 + 8 + 0) / 3, 3   # of long 80 and 82, gated 72 and 76, short 82 twice
    b = right["long"].mean(0)
    for model in ("gated", "plain", "short"):
        a, line = right[model].mean(0), lines[model]
        ratio = a.mean() / b.mean()
        images = (a - ratio * b).var() / (100 * b.mean() ** 2)
        seeds = variance / 1e4 * (1 / len(right[model]) / b.mean() ** 2 + ratio ** 2 / 2 / b.mean() ** 2)
        freedom = (images + seeds) ** 2 * df / seeds ** 2
        half = student_t_quantile(freedom) * math.sqrt(images + seeds)
        assert line["ratio"] == pytest.approx(ratio) and (line["denominator"], line["denominator_seeds"]) == ("long", 2)
        assert line["ratio"] == pytest.approx(line["top1_pct"] / line["denominator_top1_pct"])
        assert (line["ci95_low"], line["ci95_high"]) == pytest.approx((ratio - half, ratio + half), abs=0.06 * half)
        assert line["p_value"] == pytest.approx(student_t_p((ratio - 1) / math.sqrt(images + seeds), freedom), rel=0.2, abs=1e-3)
    assert [line["p_holm"] for line in lines.values()] == pytest.approx(holm([line["p_value"] for line in lines.values()]))


def test_ratios_are_to_the_best_resnet34_of_no_more_epochs(results):
    rows, records = load_rows(results), load_records(results, "task2")
    for key, record in records.items():
        record["config"] = {"epochs": {"short": 30, "gated": 30, "narrow": 10}.get(key[-2], 60)}
    trained = analysis.trainings(records)
    assert trained[(*SETTING, "short")] == (30, False) and len(trained) == 7
    lines = ratios(rows, records, results / "results")
    assert {(line["model"], line["denominator"], line["epochs"]) for line in lines} == {
        ("gated", "short", 30), ("plain", "long", 60), ("student", "long", 60)}   # no ResNet-34 has 10
    main = main_table(rows, lines, trained).split("\n\n**")[0]
    assert [line.split(" | ")[0][2:] for line in main.splitlines()[4:]] == ["plain", "long", "gated", "short", "narrow"]
    assert cells(main, "long")["ratio %, strongest"] == cells(main, "short")["ratio %, strongest"] == "100" and cells(main, "narrow")["ratio %, strongest"] == "–"
    assert cells(main, "gated")["epochs"] == "30" and cells(main, "gated")["ratio %, strongest"].startswith("90.2 (")   # 74 of 82
    assert "(long, short)" in main
    assert headline(rows, trained, SETTING) == ("gated", "short") and denominator(rows, trained, SETTING, None) == "long"
    assert mistakes(rows, trained, results / "results")[SETTING]["denominator"] == "short"
    made = make_figures(rows, records, lines, results / "results")   # one figure has the shares of one denominator
    assert [point["name"] for point in made["task2_depth_laptop_toy.png"][1]] == ["gated", "short"]


def test_a_shorter_training_is_the_denominator_where_it_is_the_best(results):
    rows, records = load_rows(results), load_records(results, "task2")
    for key, record in records.items():
        record["config"] = {"epochs": 30 if key[-2] in ("long", "plain") else 60, "small_stem": key[-2] in ("long", "plain")}
    found = {(line["comparison"], line["model"]): line["denominator"] for line in ratios(rows, records, results / "results")}
    models = ("gated", "plain", "short", "student", "narrow")
    assert {model: found[STRONGEST, model] for model in models} == dict.fromkeys(models, "long")   # better on validation in 30 epochs
    assert {model: found.get((SAME_STEM, model)) for model in models} == {
        "gated": "short", "plain": "long", "short": None, "student": "short", "narrow": "short"}
    main = main_table(rows, ratios(rows, records, results / "results"), analysis.trainings(records)).split("\n\n**")[0]
    assert cells(main, "short")["ratio %, strongest"].startswith("101.2 (") and cells(main, "short")["ratio %, same stem"] == "100"   # 82 of 81
    assert cells(main, "gated")["ratio %, same stem"].startswith("90.2 (") and "(long), and of those" in main and "(short, long);" in main


def test_a_resnet34_that_is_hardly_ever_right_is_no_denominator(results):
    add_model(results, "untrained", "resnet34", 1, seeds=(0,), val=90, strict_depth=34)
    with pytest.raises(UserError, match="gated / untrained: .*too few images.*another --role"):
        build.main([], results)


def test_ablations_by_hand(results):
    lines = ablations(load_rows(results), results / "results")
    assert [(line["group"], line["model"], line["reference"]) for line in lines] == [
        ("layer", "gated", "gated"), ("layer", "bare", "gated"), ("layer", "plain", "bare")]   # nothing to compare in "other"
    whole, bare, plain = lines
    assert (whole["top1_pct"], whole["seeds"], whole["p_value"], whole["p_holm"]) == (74, 2, None, None)
    assert whole["top1_sd"] == pytest.approx(8 ** 0.5) and bare["top1_sd"] is None
    assert bare["difference_points"] == -10 and plain["difference_points"] == 14 and bare["ci95_low"] < -10 < bare["ci95_high"]
    assert [bare["p_holm"], plain["p_holm"]] == pytest.approx(holm([bare["p_value"], plain["p_value"]]))
    table = ablation_table(lines)
    assert "| layer | all | 6 | 10 | 2 | 74.0 ± 2.8 |  |  |" in table and "|  | plain | 6 | 10 | 1 | 78.0 | +14.0 (" in table


def test_seed_variance_is_that_of_the_models_with_several_seeds(results):
    models = Models(by_setting(load_rows(results))[SETTING], results / "results")
    assert models.seed_variance == (pytest.approx(10 / 3), 3)
    one = [row for row in load_rows(results) if row["seed"] == 0]
    assert Models(by_setting(one)[SETTING], results / "results").seed_variance == (0, math.inf)


def test_predictions_of_other_images_or_damaged_ones_are_named(results):
    path = results / "results/predictions/task2-laptop-toy-32px-bare-s0-test.csv.gz"
    write_predictions(path, ["images/other/0.JPEG"] * 100, LABELS, {"predicted": LABELS})
    with pytest.raises(UserError, match="bare-s0-test.csv.gz is of other images"):
        build.main([], results)


def test_missing_predictions_name_the_script(results):
    (results / "results/predictions/task2-laptop-toy-32px-bare-s0-test.csv.gz").unlink()
    with pytest.raises(UserError, match="bare-s0-test.csv.gz: .*with eval_classifiers.py"):
        build.main([], results)


def test_seeds_of_different_networks_are_refused(results):
    add_model(results, "plain", "ours", 70, seeds=(1,), strict_depth=5)
    with pytest.raises(UserError, match="seeds of model 'plain' differ in strict_depth .5, 6."):
        build.main([], results)


def test_mistakes(results):
    found = mistakes(load_rows(results), {}, results / "results")[SETTING]
    assert (found["ours"], found["denominator"], found["seeds"]) == ("gated", "long", 2)
    assert sum(found["shares"].values()) == pytest.approx(100)
    # images that each seed has right: gated 0..71 and 3..78, long 0..79 and 3..84; wrong answers are all of the next class
    assert [found["shares"][kind] for kind in ("both right", "only long right", "two mistakes")] == pytest.approx([74, 7, 0])
    assert all(0 < ours <= 100 and true != taken for true, taken, ours, _ in found["confusions"])
    assert found["confusions"] == sorted(found["confusions"], key=lambda line: -line[2])
    table = mistakes_table({SETTING: found})
    assert "| 74.0 | 0.0 | 7.0 |" in table and "mean over 2 pairs" in table and mistakes_table({}) == ""
    assert mistakes([row for row in load_rows(results) if row["role"] != "resnet34"], {}, results / "results") == {}


# ---------------------------------------------------------------- tables

def test_main_table(results):
    rows = load_rows(results)
    lines = ratios(rows, {}, results / "results")
    table = main_table(rows, lines, {})
    main, distilled = table.split("\n\n**")
    ours = cells(main, "gated")
    assert ours["top-1 %"] == "74.0 ± 2.8" and ours["ratio %, strongest"].startswith("91.4 (") and ours["strict depth"] == "6"   # 74 of 81
    assert ours["params (M)"] == "1.00" and ours["MACs (M)"] == "10" and ours["seeds"] == "2"
    assert cells(main, "long")["ratio %, strongest"] == "100" and cells(main, "narrow")["role"] == "baseline"
    assert "student" not in main and cells(distilled, "student")["ratio %, strongest"].startswith("93.8 (") and "bare" not in table
    narrow = next(line for line in lines if line["model"] == "narrow")
    assert cells(main, "narrow")["ratio %, strongest"].endswith("*") == (narrow["p_holm"] < 0.05)
    assert "tier laptop, test split" in main and "95 % interval" in main and "laptop, test split" in distilled
    alone = main_table([row for row in rows if row["role"] == "ours"], [], {})
    assert cells(alone, "gated")["ratio %, strongest"] == "–" and "Ratio" not in alone
    assert main_table([], [], {}) == "" and "val split" in main_table(rows, lines, {}, "val")


def test_latencies_of_different_machines_are_not_compared(results):
    rows, records = load_rows(results), load_records(results, "task2")
    for (*_, model, _), record in records.items():
        record["evaluated_with"] = {"hardware": "old", "threads": 2}
        if model in ("gated", "long"):
            record["timed_with"] = {"hardware": "new", "threads": 1}   # of latency.py, later than the evaluation
    table = cost_table(rows, records, {SETTING: "long"})
    assert cells(table, "gated")["latency (ms), batch 1"] == "2.00 (0.25×)" and cells(table, "plain")["latency (ms), batch 1"] == "2.00"
    assert "on new, threads: 1; old, threads: 2; in brackets" in table


def test_cost_table(results):
    rows, records = load_rows(results), load_records(results, "task2")
    table = cost_table(rows, records, {SETTING: "long"})
    assert "| gated | 1.00 | 10 | 2.00 (0.25×) | 200.00 (1.00×) | 12 | 1.5 | 11 | 30 |" in table and "bare" not in table
    untimed = cost_table([{**row, "latency_ms_b1": None} for row in rows], {}, {})
    assert cells(untimed, "gated")["latency (ms), batch 1"] == cells(untimed, "gated")["operations"] == "–"


# ---------------------------------------------------------------- figures and documents

def test_every_figure_is_drawn_and_the_same_data_give_the_same_bytes(results):
    build.main([], results)
    drawn = {path.name: path.read_bytes() for path in (results / build.FIGURES).iterdir()}
    assert set(drawn) == {f"task2_{kind}_laptop_toy.png" for kind in FIGURE_KINDS}
    for name in drawn:
        (results / build.FIGURES / name).unlink()
    build.main([], results)
    assert drawn == {path.name: path.read_bytes() for path in (results / build.FIGURES).iterdir()}


def test_what_the_figures_show(results):
    rows, records = load_rows(results), load_records(results, "task2")
    made = make_figures(rows, records, ratios(rows, {}, results / "results"), results / "results")
    data = {name.split("_")[1]: content for name, (_, content, _) in made.items()}
    assert [(point["name"], point["depth"]) for point in data["depth"]] == [
        ("gated", 6), ("plain", 6), ("student", 6), ("narrow", 10), ("long", 34), ("short", 34)]
    assert data["depth"][4]["share"] == 100 and data["depth"][0]["share"] == pytest.approx(100 * 74 / 81)
    assert data["field"]["panels"][0]["series"] == [
        {"name": "gated (field 5 px)", "x": [0, 1, 2, 3], "y": pytest.approx([20, 60, 90, 100]), "mark": 2}]
    # gated, the best of ours on validation, is right on the first 72 and on images 3 to 78: classes 0 to 3 of 25 images each
    right = np.stack([np.arange(100) < 72, np.roll(np.arange(100) < 76, 3)]).mean(0).reshape(4, 25).mean(1)
    assert np.diagonal(data["confusion"]["shares"]) == pytest.approx(100 * right)
    assert np.sum(data["confusion"]["shares"], axis=1) == pytest.approx([100] * 4)
    long = np.stack([np.arange(100) < 80, np.roll(np.arange(100) < 82, 3)]).mean(0).reshape(4, 25).mean(1)
    assert data["classes"]["difference"] == pytest.approx(100 * (right - long)) and data["classes"]["name"] == "gated − long"
    assert data["curves"]["panels"][1]["series"][0]["y"] == [40.0] and "bare" not in str(data["curves"])
    assert data["fraction"]["panels"][0]["series"] == [{"name": "gated", "x": [10, 100], "y": pytest.approx([64, 74])}]
    assert {"macs", "latency"} <= set(data["cost"][0])
    untimed = [{**row, "latency_ms_b1": None} for row in rows]
    assert "latency" not in str(make_figures(untimed, {}, [], results / "results")["task2_cost_laptop_toy.png"][1])


def test_figures_of_many_lines_show_the_chosen_networks(results, monkeypatch):
    monkeypatch.setattr(figure_data, "TASK2_FIGURE_MODELS", ("missing", "long", "gated"))
    rows = load_rows(results)
    made = make_figures(rows, load_records(results, "task2"), [], results / "results")
    assert [line["name"] for line in made["task2_curves_laptop_toy.png"][1]["panels"][0]["series"]] == ["long", "gated"]


def test_a_network_that_sees_more_than_the_image_has_no_mark(results):
    path = results / "results/runs/task2-laptop-toy-32px-gated-s0.json"
    record = json.loads(path.read_text())
    record["receptive_field"]["size_px"] = 99
    path.write_text(json.dumps(record))
    rows = load_rows(results)
    made = make_figures(rows, load_records(results, "task2"), [], results / "results")
    assert list(made["task2_field_laptop_toy.png"][1]["panels"][0]["series"][0]) == ["name", "x", "y"]


def test_build_then_check_finds_what_is_stale(results, capsys):
    RESULTS.upsert(results / FILE, [make_row("secret", dataset="demo")])
    build.main([], results)
    build.main(["--check"], results)
    text = (results / "README.md").read_text()
    assert "| gated | ours |" in text and "secret" not in text
    assert "(figures/task2_depth_laptop_toy.png)" in (results / "report/README.md").read_text()
    header, *lines = csv.reader((results / "results/task2_ratios.csv").open())
    assert header == list(analysis.RATIO_COLUMNS) and len(lines) == 10 and lines[0][header.index("ratio")] == "0.9136"
    for path, old, new in ((results / "README.md", "74.0", "75.0"), (results / "results/task2_ratios.csv", "0.9136", "0.9236"),
                           (results / "results/task2_ablations.csv", "64.00", "65.00")):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(SystemExit) as stop:
            build.main(["--check"], results)
        assert stop.value.code == 1 and path.name in capsys.readouterr().err
        build.main([], results)
        assert path.read_text() == text
    figure = results / build.FIGURES / "task2_depth_laptop_toy.png"
    drawn = figure.read_bytes()
    figure.with_name("task2_depth_old_toy.png").write_bytes(drawn)   # of results that are gone
    other = [{"name": "other", "depth": 6, "share": 1.0, "low": 0.0, "high": 2.0}]
    figures.write_figure(figures.share_against_depth, ["title", other], figure)
    with pytest.raises(SystemExit):
        build.main(["--check"], results)
    error = capsys.readouterr().err
    assert "figures/task2_depth_laptop_toy.png is not what" in error and "task2_depth_old_toy.png (no results for it)" in error
    build.main([], results)
    assert figure.read_bytes() == drawn and not figure.with_name("task2_depth_old_toy.png").exists()


def test_records_of_the_two_tasks_are_kept_apart(results):
    record = json.loads((results / "results/runs/task2-laptop-toy-32px-gated-s0.json").read_text())
    del record["task"]   # as older records, which are all of Task 1
    (results / "results/runs/laptop-toy-32px-gated-s0.json").write_text(json.dumps({**record, "history": "Task 1's"}))
    assert load_records(results, "task2")[(*SETTING, "gated", 0)]["history"] != "Task 1's"
    assert [record["history"] for record in load_records(results, "task1").values()] == ["Task 1's"]


def test_without_results_the_blocks_say_so(root):
    build.main([], root)
    assert (root / "report/README.md").read_text().count("No results yet: run `python experiments.py task2`") == len(make_content(root).blocks)
    build.main(["--check"], root)


def test_pictures_compare_the_best_on_validation_with_the_denominator(results):
    (*setting, model), predictions = pictures.find_task2(results, None, None)
    assert (tuple(setting), model) == (SETTING, "gated") and list(predictions.by_column) == ["gated", "long"]
    assert pictures.find_task2(results, "laptop", "plain")[0][-1] == "plain"
    for tier, model in (("gpu", None), (None, "long"), (None, "missing")):   # long is the denominator itself
        with pytest.raises(UserError, match="eval_classifiers.py"):
            pictures.find_task2(results, tier, model)
