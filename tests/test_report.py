"""Task 1: results file, tables, comparisons, figures, and the check that documents follow them. All numbers are made up."""
import csv
import json

import numpy as np
import pytest

from evaluation import write_predictions
from report import build, figures, pictures
from report.class_names import class_names
from report.records import Predictions, load_records
from report.task1.analysis import MEAN, Models, ablations, compare_models
from report.task1.content import FIGURE_KINDS, FILE, load_rows, make_content
from report.task1.figure_data import make_figures
from report.task1.rows import RESULTS, SPECIALISTS, SUBSETS
from report.task1.tables import ablation_table, channel_table, cost_table, detail_table, stats_table
from utils import UserError


def make_row(model="fill", role="ours", subset="RGB", top1=50.0, **changes):
    return {"tier": "laptop", "dataset": "toy", "image_size": 32, "role": role, "model": model, "seed": 0,
            "subset": subset, "split": "test", "top1_pct": top1, "ci95_low": top1 - 2, "ci95_high": top1 + 2,
            "precision_macro": 0.5, "recall_macro": 0.5, "f1_macro": 0.5, "params": 1_000_000,
            "macs": 10_000_000 * len(subset), "latency_ms": 1.0 * len(subset), **changes}


def all_subsets(model="fill", role="ours", rgb=50.0, rest=40.0, **changes):
    return [make_row(model, role, subset, rgb if subset == "RGB" else rest, **changes) for subset in SUBSETS]


def cells(table: str, model: str) -> dict[str, str]:
    """Column -> cell of the model's line."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return dict(zip(lines[0], next(line for line in lines if line[0] == model)))


# ---------------------------------------------------------------- the file

def test_upsert_replaces_keeps_and_sorts(tmp_path):
    path = tmp_path / "rows.csv"
    RESULTS.upsert(path, [make_row("net", "specialist", "G"), make_row("slice", "baseline"), *reversed(all_subsets())])
    RESULTS.upsert(path, [make_row(top1=61.239), make_row(seed=1), make_row("cut", "ablation")])
    rows = RESULTS.read(path)
    assert [(row["model"], row["seed"], row["subset"]) for row in rows] == [
        *(("fill", 0, subset) for subset in SUBSETS), ("fill", 1, "RGB"), ("slice", 0, "RGB"), ("net", 0, "G"),
        ("cut", 0, "RGB")]
    assert rows[0]["top1_pct"] == 61.24
    before = path.read_bytes()
    RESULTS.upsert(path, rows)
    assert path.read_bytes() == before


def test_cost_cells_may_be_empty(tmp_path):
    RESULTS.upsert(tmp_path / "rows.csv", [make_row(params=None, macs=None, latency_ms=None)])
    rows = RESULTS.read(tmp_path / "rows.csv")
    assert rows[0]["latency_ms"] is None
    assert cells(channel_table(rows), "fill")["params (M)"] == cells(cost_table(rows, {}), "fill")["MACs (M), n=3"] == "–"


@pytest.mark.parametrize("old, new, message", [
    ("tier,", "tiers,", ":1: the header"), (",ours,", ",mine,", ":2: unknown role 'mine'"),
    (",50.00,", ",fifty,", ":2: top1_pct is 'fifty'"), (",50.00,", ",150,", ":2: top1_pct is 150, outside"),
    (",50.00,", ",nan,", ":2: top1_pct is nan, outside"), (",50.00,", ",", ":2: 16 cells, expected 17"),
    ("laptop,", ",", ":2: tier is ''"), ("fill", "a|b", ":2: model is 'a|b'"),
])
def test_a_malformed_file_is_named_with_its_line(tmp_path, old, new, message):
    path = tmp_path / "rows.csv"
    RESULTS.upsert(path, [make_row()])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=f"rows.csv{message}".replace("|", r"\|")):
        RESULTS.read(path)


def test_a_repeated_key_and_a_missing_file_are_errors(tmp_path):
    path = tmp_path / "rows.csv"
    RESULTS.upsert(path, [make_row()])
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(UserError, match=":3: a second row"):
        RESULTS.read(path)
    with pytest.raises(UserError, match="cannot read"):
        RESULTS.read(tmp_path / "none.csv")


def test_bad_rows_leave_the_file_alone(tmp_path):
    path = tmp_path / "rows.csv"
    RESULTS.upsert(path, [make_row()])
    before = path.read_bytes()
    with pytest.raises(UserError, match="row 2 .*unknown role"):
        RESULTS.upsert(path, [make_row(top1=9.0), make_row(role="mine")])
    with pytest.raises(ValueError, match=r"row 1.*'macs'"):
        RESULTS.upsert(path, [{name: value for name, value in make_row().items() if name != "macs"}])
    assert path.read_bytes() == before


# ---------------------------------------------------------------- the tables

def test_channel_table_by_hand():
    rows = all_subsets(rgb=50, rest=40) + all_subsets(rgb=52, rest=44, seed=1)
    rows += all_subsets("slice", "baseline", 55, 30)
    rows += [make_row("net-RGB", "specialist", "RGB", 56), make_row("net-R", "specialist", "R", 45),
             make_row("net-G", "specialist", "G", 46)]
    table = channel_table(rows)
    ours = cells(table, "fill")
    assert ours["seeds"] == "2" and ours["RGB"] == "51.0 ± 1.4" and ours["R"] == "**42.0 ± 2.8**"
    assert ours["mean of 7"] == "**43.3 ± 2.6**" and ours["worst of 7"] == "**42.0 ± 2.8**"
    assert ours["expert gap"] == "**4.0 (3)**"        # (56 - 51 + 45 - 42 + 46 - 42) / 3
    assert ours["retention %"] == "**82.4**"          # 42 / 51
    assert ours["MACs (M), n=3"] == "30" and ours["params (M)"] == "1.00"
    assert cells(table, "slice")["RGB"] == "**55.0**" and cells(table, "slice")["expert gap"] == "10.7 (3)"
    experts = cells(table, "specialists (one net a subset)")
    assert experts["params (M)"] == "3.00" and experts["R"] == "45.0" and experts["RG"] == "–"
    assert experts["mean of 7"] == experts["expert gap"] == experts["retention %"] == "–"
    assert "typically ±2.0 points" in table


def test_settings_and_splits_are_kept_apart():
    rows = all_subsets() + all_subsets(image_size=64) + all_subsets("other", split="val")
    assert channel_table(rows).count("**toy, ") == 2 and "other" not in channel_table(rows)
    assert "other" in channel_table(rows, "val") and channel_table(rows, "train") == ""


def test_two_specialists_for_one_subset_are_ambiguous():
    with pytest.raises(UserError, match="a and b both claim subset R"):
        channel_table([make_row("a", "specialist", "R"), make_row("b", "specialist", "R")])


def test_detail_and_cost():
    rows = all_subsets() + all_subsets("slice", "baseline")
    detail = detail_table(rows, ["fill"])
    assert "slice" not in detail and "| fill | RGB | 1 | 50.00 | 48.00 – 52.00 | 0.5000 | 0.5000 | 0.5000 |" in detail
    table = cost_table(rows, {("laptop", "toy", 32, "fill", 0): 90.0})
    assert "| fill | 1.00 | 1.5 | 10.0 | 20.0 | 30.0 | 1.00 | 2.00 | 3.00 |" in table and cells(table, "slice")["training (min)"] == "–"
    specialists = [make_row(f"net-{s}", "specialist", s, seed=seed) for s in SUBSETS for seed in (0, 1)]
    seconds = {("laptop", "toy", 32, f"net-{s}", seed): 60.0 for s in SUBSETS for seed in (0, 1)}
    assert cells(cost_table(specialists, seconds), SPECIALISTS)["training (min)"] == "7.0"


def test_ablations_stay_out_of_the_tables_of_models():
    rows = all_subsets() + all_subsets("variant", "ablation")
    for table in (channel_table(rows), detail_table(rows), cost_table(rows, {})):
        assert "fill" in table and "variant" not in table
    assert channel_table(all_subsets("variant", "ablation")) == ""


# ---------------------------------------------------------------- comparisons

LABELS = np.repeat(np.arange(4), 25)


def write_run(root, stem, predictions, record):
    """What an evaluation leaves of a run beside its rows: predictions of each column, (100,), and the record."""
    write_predictions(root / f"results/predictions/{stem}-test.csv.gz", [f"images/n{c}/{i}.JPEG" for i, c in enumerate(LABELS)],
                      LABELS, predictions)
    (root / "results/runs").mkdir(exist_ok=True)
    (root / f"results/runs/{stem}.json").write_text(json.dumps(record))


def write_documents(root, blocks, shown, after=""):
    """Both documents: README.md with the block `shown`, report/README.md with all."""
    empty = {name: f"<!-- generated:{name} -->\n<!-- end -->\n" for name in blocks}
    (root / "report").mkdir()
    (root / "README.md").write_text("Prose.\n" + empty[shown] + after)
    (root / "report/README.md").write_text("\n".join(empty.values()))


def add_model(root, model, role, accuracy, seeds=(0, 1), subsets=SUBSETS, spread=0):
    """Rows, predictions and records of a model right on the first `accuracy` + seed * `spread` percent, shifted by seed."""
    for seed in seeds:
        correct = np.roll(np.arange(100) < accuracy + seed * spread, 3 * seed)
        predictions = {subset: np.where(correct, LABELS, (LABELS + 1) % 4) for subset in subsets}
        stem = f"laptop-toy-32px-{model}-s{seed}"
        rows = [make_row(model, role, subset, accuracy, seed=seed) for subset in subsets]
        RESULTS.upsert(root / FILE, rows)
        history = [{"epoch": e, "loss": 2 - e / 10, "val_mean_pct": accuracy - 5 + e,
                    "val_top1_pct": {s: accuracy - 5 + e for s in subsets}} for e in (1, 2)]
        record = {**{key: rows[0][key] for key in ("tier", "dataset", "image_size", "model", "seed")}, "train_s": 60.0,
                  "history": history, "kernels": {s: np.ones((8, len(s), 3, 3)).tolist() for s in SUBSETS}}
        write_run(root, stem, predictions, record)


@pytest.fixture
def root(tmp_path):
    """A repository with both documents and no results."""
    write_documents(tmp_path, make_content(tmp_path).blocks, "task1-channels", "More prose.\n")
    return tmp_path


@pytest.fixture
def results(root):
    """The same with results of ours, a baseline, the specialists and an ablation."""
    add_model(root, "linear", "ours", 60)
    add_model(root, "sliced", "baseline", 50, seeds=(0,))
    for subset in SUBSETS:
        add_model(root, f"specialist-{subset}", "specialist", 62, subsets=(subset,))
    add_model(root, "zero", "ablation", 55)
    return root


def test_comparisons_by_hand(results):
    lines = compare_models(load_rows(results), results / "results")
    assert len(lines) == 16 and {line["other"] for line in lines} == {SPECIALISTS, "sliced"}
    line = next(line for line in lines if line["other"] == "sliced" and line["subset"] == MEAN)
    assert (line["difference_points"], line["seeds"], line["other_seeds"]) == (10, 2, 1)
    assert line["ci95_low"] < 10 < line["ci95_high"] and line["p_holm"] >= line["p_value"] > 0
    against = next(line for line in lines if line["other"] == SPECIALISTS and line["subset"] == "R")
    assert against["difference_points"] == pytest.approx(-2)
    assert cells(stats_table(lines).replace(SPECIALISTS, "seven"), "linear")["other"] == "seven"


def test_ablations_by_hand(results):
    lines = ablations(load_rows(results), results / "results")
    assert [(line["group"], line["model"]) for line in lines if line["group"] == "fill rule"] == [
        ("fill rule", "linear"), ("fill rule", "zero")]
    zero = next(line for line in lines if line["model"] == "zero")
    assert zero["difference_points"] == -5 and (zero["RGB"], zero["mean_pct"]) == pytest.approx((55, 55)) and zero["mean_sd"] == 0
    assert next(line for line in lines if line["model"] == "linear")["p_holm"] is None and zero["reference"] == "linear"
    assert not [line for line in lines if line["group"] == "kernel size"]   # nothing to compare there
    seven = next(line for line in lines if line["model"] == "specialist-{}")
    assert seven["mean_pct"] == 62 and seven["seeds"] == 2
    assert "| fill rule | linear | 2 |" in ablation_table(lines) and "|  | zero | 2 |" in ablation_table(lines)


def test_seeds_are_an_error_of_networks_not_of_evaluations(results):
    """Two evaluations of the same weights differ by images alone; two trainings also by what seeds of their kind do."""
    add_model(results, "linear", "ours", 60, spread=4)                # variance 8, one degree of freedom
    add_model(results, "linear+wrong-ids", "ablation", 60, spread=4)
    add_model(results, "variant", "ablation", 60, seeds=(0,))
    add_model(results, "naive-rgb", "baseline", 30, spread=10)        # 50
    for subset in SUBSETS:
        add_model(results, f"specialist-{subset}", "specialist", 62, subsets=(subset,), spread=2)   # 2
    models = Models(load_rows(results), results / "results")
    assert models.compare("linear+wrong-ids", "linear", MEAN)["p_value"] == 1   # the same predictions: no error at all
    assert models._seed_variance("variant", "R") == pytest.approx((4, 2))       # pooled with "zero", which does not vary
    assert models._seed_variance("linear", MEAN) == pytest.approx((4, 2))       # one network: all sets vary together
    assert models._seed_variance("naive-rgb", "R") == pytest.approx((50, 1))
    assert models._seed_variance("specialist-R", "R") == pytest.approx((2, 1))
    assert models._seed_variance("specialist-{}", MEAN) == pytest.approx((2 / 7, 7))
    a, b = models.compare("variant", "linear", "R"), models.compare("variant", "specialist-{}", "R")
    assert a["ci95_high"] - a["ci95_low"] > 2 * 1.96 * (4 * 1.5) ** 0.5 and b["seeds"] == 1


def test_predictions_of_other_images_are_refused(results):
    path = results / "results/predictions/laptop-toy-32px-zero-s1-test.csv.gz"
    write_predictions(path, ["images/other/0.JPEG"] * 100, LABELS, {subset: LABELS for subset in SUBSETS})
    with pytest.raises(UserError, match="zero-s1-test.csv.gz is of other images"):
        build.main([], results)


def test_a_model_needs_every_subset_of_a_seed(results):
    (results / "results/task1_channels.csv").write_text("".join(
        line for line in (results / "results/task1_channels.csv").open() if ",zero,1,GB," not in line))
    models = Models(load_rows(results), results / "results")
    assert models.seeds("zero") == [0] and models.seeds("zero", ("RGB", "R")) == [0, 1] and models.seeds("nothing") == []


def test_missing_predictions_are_named(results):
    (results / "results/predictions/laptop-toy-32px-zero-s1-test.csv.gz").write_bytes(b"damaged")
    with pytest.raises(UserError, match="zero-s1-test.csv.gz: .*evaluate the model again"):
        build.main([], results)


# ---------------------------------------------------------------- figures and documents

def test_every_figure_is_drawn_and_the_same_data_give_the_same_bytes(results):
    build.main([], results)
    drawn = {path.name: path.read_bytes() for path in (results / build.FIGURES).iterdir()}
    assert {name.split("_")[1] for name in drawn} == set(FIGURE_KINDS) - {"length"}
    for name in drawn:
        (results / build.FIGURES / name).unlink()
    build.main([], results)
    assert drawn == {path.name: path.read_bytes() for path in (results / build.FIGURES).iterdir()}


def test_the_specialists_curve_is_of_their_own_sets(results):
    """The RGB specialist is the naive network, whose validation on all seven sets is no part of it."""
    path = results / "results/runs/laptop-toy-32px-specialist-RGB-s0.json"
    record = json.loads(path.read_text())
    for line in record["history"]:
        line["val_mean_pct"] = 0
    path.write_text(json.dumps(record))
    made = make_figures(load_rows(results), load_records(results, "task1"), results / "results")
    series = made["task1_curves_laptop_toy.png"][1]["panels"][1]["series"][-1]
    assert series["name"] == "specialists, mean" and series["y"] == pytest.approx([58, 59])


def test_length_is_a_figure_where_there_are_several_lengths(results):
    add_model(results, "linear-e60", "ablation", 65)
    build.main([], results)
    assert (results / build.FIGURES / "task1_length_laptop_toy.png").exists()


def test_build_then_check(results, capsys):
    RESULTS.upsert(results / FILE, all_subsets("secret", dataset="demo"))
    build.main([], results)
    build.main(["--check"], results)
    text = (results / "README.md").read_text()
    assert text.startswith("Prose.\n<!-- generated") and "| linear | ours |" in text and "secret" not in text
    assert "(figures/task1_channels_laptop_toy.png)" in (results / "report/README.md").read_text()
    header, *lines = csv.reader((results / "results/task1_stats.csv").open())
    assert header[-1] == "p_holm" and len(lines) == 16

    for path, old, new in ((results / "README.md", "60.0", "70.0"), (results / "results/task1_ablations.csv", "55.00", "65.00")):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(SystemExit) as stop:
            build.main(["--check"], results)
        assert stop.value.code == 1 and f"{path.name}" in capsys.readouterr().err
        build.main([], results)
        assert path.read_text() == text


def test_check_finds_missing_stale_and_left_over_figures(results, capsys):
    build.main([], results)
    figure = results / build.FIGURES / "task1_channels_laptop_toy.png"
    drawn, other = figure.read_bytes(), [{"name": "other", "top1": {"R": 1}, "low": {"R": 0}, "high": {"R": 2}}]
    for damage in (figure.unlink, lambda: figures.write_figure(figures.channel_bars, ["title", other], figure),
                   lambda: figure.write_text("no PNG")):
        damage()
        with pytest.raises(SystemExit):
            build.main(["--check"], results)
        assert "figures/task1_channels_laptop_toy.png is not what" in capsys.readouterr().err
        build.main([], results)
        assert figure.read_bytes() == drawn
    left_over = figure.with_name("task1_channels_old_toy.png")
    left_over.write_bytes(drawn)
    with pytest.raises(SystemExit):
        build.main(["--check"], results)
    build.main([], results)
    assert not left_over.exists()


def test_class_names_are_readable_and_fall_back_to_the_folder():
    images = ["images/n04146614/a.JPEG", "x/images/cats/b.JPEG", "images/n01532829/c.JPEG"]
    assert class_names(images, [2, 1, 0]) == {0: "house finch", 1: "cats", 2: "school bus"}


def test_pictures_are_chosen_by_what_the_sets_get_right():
    right = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1]], bool)   # RGB, R, G, B of four images
    by_subset = {s: np.where(right[max(0, "RGB".find(s) + 1) if len(s) == 1 else 0], 5, 6) for s in SUBSETS}
    chosen = pictures.choose(pictures.kinds_task1(Predictions(["a"] * 4, np.full(4, 5), by_subset)), each=9)
    assert chosen == {"needs colour": [0], "one channel is enough": [1], "depends on the channel": [2], "colour misleads": [3]}


def test_pictures_are_chosen_by_what_two_networks_get_right():
    answers = {"shallow": np.array([5, 5, 1, 1, 1]), "deep": np.array([5, 2, 5, 1, 2])}
    chosen = pictures.choose(pictures.kinds_task2(Predictions(["a"] * 5, np.full(5, 5), answers)), each=9)
    assert chosen == {"both right": [0], "only shallow right": [1], "only deep right": [2], "the same mistake": [3], "two mistakes": [4]}


def test_pictures_need_results_of_the_model(results):
    with pytest.raises(UserError, match="no results of model 'nothing' in tier 'cpu'"):
        pictures.main(["--model", "nothing", "--tier", "cpu"], results)


def test_a_broken_record_is_named(results):
    (results / "results/runs/bad.json").write_text("{}")
    with pytest.raises(UserError, match="bad.json is no record"):
        build.main([], results)


def test_a_missing_document_is_an_error(root):
    (root / "README.md").unlink()
    with pytest.raises(UserError, match="README.md is missing: restore it"):
        build.main(["--check"], root)


def test_without_results_the_blocks_say_so(root):
    build.main([], root)
    assert (root / "report/README.md").read_text().count("No results yet: run `python train_task1.py`") \
        == len(make_content(root).blocks)
    build.main(["--check"], root)


@pytest.mark.parametrize("text, message", [
    ("a\n<!-- generated:task9 -->\n<!-- end -->\n", "README.md:2: unknown block 'task9'"),
    ("<!-- generated:task1-cost -->\n", "no <!-- end -->"),
    ("<!-- generated:task1-cost -->\n<!-- generated:task1-cost -->\n<!-- end -->\n", "README.md:1: .* no <!-- end -->"),
])
def test_broken_marks_are_named(root, text, message):
    (root / "README.md").write_text(text)
    with pytest.raises(UserError, match=message):
        build.main([], root)
