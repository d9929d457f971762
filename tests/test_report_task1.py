"""Task 1: comparisons, tables, figures, and the check that documents follow the results.

All numbers are made up.
"""

import csv
from types import SimpleNamespace

import numpy as np
from helpers import exits, read_json, user_error
from matplotlib.figure import Figure
from pytest import approx, fixture, mark

from data.class_names import class_names
from engine.records import SUBSETS, Predictions, read_predictions, write_predictions
from grids.run import Run
from grids.task1 import (
    ABLATIONS,
    BY_FILL,
    CHANNELSET,
    GREY_IMAGES,
    LATE_FUSION,
    LONG,
    RGB_ONLY,
    RGB_STRONG,
    SLICED,
    SPECIALISTS,
    probed,
)
from report import build, figures, markdown
from report.appendix_tables import channel_cost_table, channel_table, detail_table, stats_table, variant_table
from report.budgets import budget
from report.charts import make_charts
from report.compare import MEAN, SEVEN, ablations, compare_models, lines_of
from report.figures import Panel, Series
from report.numbers import DATA, NARROW, Numbers
from report.paper import colour_table, predictions_table, seeds_of
from report.results import load_settings
from tools import pictures

APPENDIX = {f"task1-{name}" for name in ("channels", "detail", "cost", "stats", "ablations-all", "extra")} | {
    f"task1-bands{name}" for name in ("", "-differences", "-unseen")
}
LABELS = np.repeat(np.arange(4), 25)
IMAGES = 23_992  # of the training of mini-imagenet-50
OURS, OTHER = Run("fill", "fill", "ours"), Run("slice", "slice", "baseline", {"lr": 0.3})
EACH = {
    subset: Run("net", "net", "specialist", {"channels": subset} if subset != "RGB" else {"sampler": "none"})
    for subset in SUBSETS
}


@fixture
def root(documents):
    """Make a repository with both documents and no results."""
    return documents("task1", APPENDIX, "task1-channels")


@fixture
def results(root, publish, once):
    """Add results of ours, a baseline, the specialists and an ablation to `root`."""
    once("task1", root / "results", lambda: publish_all(publish))
    return root


def publish_all(publish):
    history = [
        {
            "epoch": e,
            "loss": 2 - e / 10,
            "val_mean_pct": 57 + e,
            "val_top1_pct": dict.fromkeys(SUBSETS, 57 + e),
        }
        for e in (1, 2)
    ]
    more = {"history": history}
    publish("task1", CHANNELSET, 60, more=more)
    publish("task1", SLICED, 50, seeds=(0,), more=more)
    publish_specialists(publish, more=more)
    publish("task1", BY_FILL["zero"], 55, more=more)


@fixture
def setting(results):
    return only(results)


def only(root):
    """Return the only setting of the results."""
    (setting,) = load_settings(root, "task1")[1]
    return setting


def numbers_of(root):
    return Numbers(load_settings(root, "task1")[1], root / "results")


def publish_specialists(publish, **options):
    for subset, run in SPECIALISTS.items():
        publish("task1", run, 62, subsets=(subset,), **options)


# ---------------------------------------------------------------- tables


def test_channel_table_by_hand(publish, tmp_path, cells, rewrite):
    def add(run, seed, top1):
        path = publish("task1", run, 0, (seed,), subsets=tuple(top1)).record
        record = read_json(path)
        for rows in record["splits"].values():
            for line in rows:
                value = top1[line["subset"]]
                line.update(top1_pct=value, ci95_low=value - 2, ci95_high=value + 2)
        rewrite(path, record)

    def every(rgb, rest):
        return {subset: rgb if subset == "RGB" else rest for subset in SUBSETS}

    add(OURS, 0, every(50, 40)), add(OURS, 1, every(52, 44)), add(OTHER, 0, every(55, 30))
    add(EACH["RGB"], 0, {"RGB": 56}), add(EACH["R"], 0, {"R": 45}), add(EACH["G"], 0, {"G": 46})
    table = channel_table(only(tmp_path))
    ours = cells(table, "fill")
    assert ours["seeds"] == "2" and ours["RGB"] == "51.0 ± 1.4" and ours["R"] == "**42.0 ± 2.8**"
    assert ours["mean of 7"] == "**43.3 ± 2.6**" and ours["worst of 7"] == "**42.0 ± 2.8**"
    assert ours["expert gap"] == "**4.0 (3)**"  # (56 - 51 + 45 - 42 + 46 - 42) / 3
    assert ours["retention %"] == "**82.4**"  # 42 / 51
    assert ours["MACs (M), n=3"] == "30" and ours["params (M)"] == "1.00"
    assert cells(table, "slice")["RGB"] == "**55.0**" and cells(table, "slice")["expert gap"] == "10.7 (3)"
    experts = cells(table, SEVEN)
    assert experts["params (M)"] == "3.00" and experts["R"] == "45.0" and experts["RG"] == "–"
    assert experts["mean of 7"] == experts["expert gap"] == experts["retention %"] == "–"
    assert "typically ±2.0 points" in table


def test_settings_and_splits_are_kept_apart(publish, tmp_path):
    for preset in ("48px-quarter", "64px-half"):
        publish("task1", CHANNELSET, 60, preset=preset)
    settings = load_settings(tmp_path, "task1")[1]
    assert [setting.key for setting in settings] == [("48px-quarter", "toy", 48), ("64px-half", "toy", 64)]
    assert [channel_table(setting).count("**toy, ") for setting in settings] == [1, 1]
    setting = settings[0]
    assert "test split" in channel_table(setting)
    setting.test = setting.test[:0]
    assert channel_table(setting) == ""


def test_two_specialists_for_one_subset_are_ambiguous(publish, tmp_path):
    publish("task1", SPECIALISTS["R"], 60, subsets=("R",))
    publish("task1", SPECIALISTS["R"].but(section="specialist", lr=0.3), 60, subsets=("R",))
    with user_error("specialists .*specialist-.* both have subset R, seed 0"):
        channel_table(only(tmp_path))


def test_two_records_of_one_model_and_seed_are_refused(publish, tmp_path, rewrite):
    files = publish("task1", CHANNELSET, 60, seeds=(0,))
    record = {**read_json(files.record), "digest": "01234567"}  # as an older version named it
    other = files.record.with_name(files.record.name.replace(files.name[-11:-3], "01234567"))
    rewrite(other, record)
    with user_error(
        "the records .*channelset.* and .*channelset.* have the same model and seed: delete one record"
    ):
        load_settings(tmp_path, "task1")


def test_detail_and_cost(setting, cells):
    assert "| channel-set stem (ours) | as trained | 30 | light | RGB | 2 | 60.00 |" in detail_table(setting)
    table = channel_cost_table(setting)
    assert (
        "(ours) | as trained | 30 | light | 1.00 | 1.0 | 10.0 | 20.0 | 30.0 | 1.00 | 2.00 | 3.00 |" in table
    )
    assert cells(table, SEVEN)["training (min)"] == "7.0" and cells(table, SEVEN)["params (M)"] == "7.00"


def test_costs_that_were_not_measured_are_dashes(publish, tmp_path, cells):
    publish("task1", CHANNELSET, 60, latency_ms=None)
    assert cells(channel_cost_table(only(tmp_path)), CHANNELSET.label)["latency (ms), n=1"] == "–"


def test_ablations_stay_out_of_the_tables_of_models(setting):
    for table in (channel_table(setting), detail_table(setting), channel_cost_table(setting)):
        assert CHANNELSET.label in table and BY_FILL["zero"].label not in table


# ---------------------------------------------------------------- comparisons


def test_comparisons_by_hand(setting, cells):
    lines = compare_models(setting)
    assert len(lines) == 16 and {line["other"] for line in lines} == {SEVEN, SLICED.label}
    line = next(line for line in lines if line["other"] == SLICED.label and line["subset"] == MEAN)
    assert (line["difference_points"], line["seeds"], line["other_seeds"]) == (10, 2, 1)
    assert line["ci95_low"] < 10 < line["ci95_high"] and line["p_holm"] >= line["p_value"] > 0
    against = next(line for line in lines if line["other"] == SEVEN and line["subset"] == "R")
    assert against["difference_points"] == approx(-2) and against["other_run"] == ""
    assert cells(stats_table(setting), CHANNELSET.label)["other"] == SEVEN


def test_only_models_of_one_recipe_are_compared(publish, tmp_path):
    for run in (CHANNELSET, CHANNELSET.but(width=0.5), SLICED, SLICED.but(epochs=60)):
        publish("task1", run, 60)
    setting = only(tmp_path)
    wide = setting.run_name(setting.find(CHANNELSET.but(width=0.5)))
    pairs = {(line["run"], line["other_run"]) for line in compare_models(setting)}
    other = setting.run_name(setting.find(SLICED))
    assert pairs == {(setting.run_name(setting.find(CHANNELSET)), other), (wide, other)}


def test_ablations_by_hand(setting):
    lines = ablations(setting)
    rules = [line for line in lines if line["group"] == "fill rule"]
    assert [line["variant"] for line in rules] == ["regression", "zero"]
    whole, zero = rules
    assert zero["difference_points"] == -5 and zero["mean_sd"] == 0
    assert (zero["RGB"], zero["mean_pct"]) == approx((55, 55))
    assert whole["p_holm"] is None and zero["reference_run"] == whole["run"] == setting.run_name(
        setting.find(CHANNELSET)
    )
    assert not [line for line in lines if line["group"] == "kernel size"]  # nothing to compare there
    seven = next(line for line in lines if line["variant"] == "7 specialists, 30 each")
    assert seven["mean_pct"] == 62 and seven["seeds"] == 2
    table = variant_table(setting)
    assert "| fill rule | regression | 2 |" in table and "|  | zero | 2 |" in table
    # named as in the group
    assert table.split("|  | zero | 2 |")[1].split("\n")[0].endswith("| regression |")


def test_a_variant_that_is_another_one_at_a_preset_is_not_shown_twice(publish, tmp_path):
    """At 64px-half strong augmentation and half width are what the preset has."""
    for run in (CHANNELSET, RGB_ONLY, *SPECIALISTS.values()):
        publish("task1", run, 60, preset="64px-half")
    setting = only(tmp_path)
    assert setting.find(CHANNELSET.but(augment="strong", width=0.5)) == setting.find(CHANNELSET) is not None
    assert setting.find(RGB_STRONG) == setting.find(RGB_ONLY) is not None
    shown = [(line["group"], line["variant"]) for line in ablations(setting)]
    assert ("augmentation", "the preset's") in shown and ("augmentation", "strong") not in shown
    assert ("augmentation", "naive RGB, strong") not in shown
    assert [variant for group, variant in shown if group == "capacity"] == [
        "the preset's width, ours",
        "the preset's width, specialists",
    ]


def test_seeds_are_an_error_of_networks_not_of_evaluations(results, publish):
    """Two evaluations of the same weights differ by images alone; two trainings also by what seeds of their
    kind do.
    """
    told, variant = probed(CHANNELSET, "wrong-ids"), CHANNELSET.but(lr=0.3)
    publish("task1", CHANNELSET, 60, spread=4)  # variance 8, one degree of freedom
    publish("task1", told, 60, spread=4)
    publish("task1", variant, 60, seeds=(0,))
    publish("task1", RGB_ONLY, 30, spread=10)  # 50
    publish("task1", GREY_IMAGES, 30)  # no variance
    publish_specialists(publish, spread=2)  # 2
    setting = only(results)
    ours, probe, one, rgb, grey, seven = (
        setting.model(run) for run in (CHANNELSET, told, variant, RGB_ONLY, GREY_IMAGES, SPECIALISTS)
    )
    assert setting.difference(probe, ours)["p_value"] == 1  # the same predictions: no error at all

    def variance(model, *columns):
        return setting.variance(model, columns)[::2]  # between seeds, degrees of freedom

    # pooled with "zero", which does not vary
    assert variance(one, "R") == approx((4, 2))
    # one network: all sets vary together
    assert variance(ours, *SUBSETS) == approx((4, 2))
    # other evaluations do not count again
    assert variance(probe, "R") == approx((4, 2))
    # a network that draws no sets: the larger of the pooled variance and that of its own seeds
    assert variance(rgb, "R") == approx((50, 1))
    assert variance(grey, "R") == approx((4, 2))
    assert variance(seven, "R") == approx((2, 1))
    assert variance(seven, *SUBSETS) == approx((2 / 7, 7))
    a, b = setting.difference(one, ours, ("R",)), setting.difference(one, seven, ("R",))
    excess = setting.variance(one, ("R",)).excess
    assert a["ci95_high"] - a["ci95_low"] > 2 * 1.96 * (excess * 1.5) ** 0.5 and b["seeds"] == 1


def test_evaluations_of_the_same_weights_are_compared_seed_by_seed(results, publish):
    told = probed(CHANNELSET, "wrong-ids")
    publish("task1", CHANNELSET, 60, spread=4)  # 60 and 64 %
    publish("task1", told, 50, (0, 1, 2), spread=20)  # 50 and 70 %; the third seed has no partner
    setting = only(results)
    ours, probe = (setting.model(run) for run in (CHANNELSET, told))
    wide = setting.difference(probe, ours)  # -10 and +6 points: nothing is known
    assert wide["difference_points"] == approx(-2) and wide["ci95_low"] < -30 and wide["p_value"] > 0.5


def test_a_setting_of_one_seed_learns_the_spread_from_the_others(results, publish):
    for run in (CHANNELSET, SLICED):
        publish("task1", run, 60, preset="64px-half", seeds=(0,))
    publish("task1", CHANNELSET, 60, spread=8)
    settings = {setting.preset: setting for setting in load_settings(results, "task1")[1]}
    few = settings["64px-half"]
    ours, sliced = (few.model(run) for run in (CHANNELSET, SLICED))
    many = settings["48px-quarter"]
    assert few.variance(ours, SUBSETS) == many.variance(many.model(CHANNELSET), SUBSETS)
    assert few.difference(ours, sliced)["ci95_high"] > 5
    few.dataset = many.dataset = DATA
    numbers = Numbers([few, many], results / "results")
    widths = [one.difference("64px-half", CHANNELSET, SLICED) for one in (numbers, numbers.by_preset())]
    assert widths[0]["ci95_high"] > widths[1]["ci95_high"] + 1  # alone, this preset has no seed variance
    assert few.others == [many]  # the copies changed, not the settings


def test_the_gap_to_specialists_needs_their_recipe(results, publish, cells):
    publish("task1", Run("longer", "longer", "ours", {"epochs": 90}), 64)
    table = channel_table(only(results))
    assert cells(table, "longer")["expert gap"] == "–" != cells(table, CHANNELSET.label)["expert gap"]


@mark.parametrize("kind", ["dataset_digest", "images_digest"])
def test_records_of_different_data_of_one_name_are_refused(publish, tmp_path, kind):
    for run, more in ((CHANNELSET, {kind: "a"}), (SLICED, {}), (RGB_ONLY, {kind: "lists only"})):
        publish("task1", run, 60, more=more)
    publish("task1", CHANNELSET, 60, dataset="other", more={kind: "b"})
    assert len(load_settings(tmp_path, "task1")[1]) == 2
    publish("task1", BY_FILL["zero"], 55, more={kind: "b"}, preset="64px-half")
    with user_error("the records .*-channelset-.* and .*-fill-zero-.* both called 'toy'"):
        load_settings(tmp_path, "task1")


def test_predictions_of_other_images_are_refused(results, publish, rewrite):
    files = publish("task1", BY_FILL["zero"], 55)
    rewrite(files.record, read_json(files.record))
    answers = read_predictions(files.predictions).by_column
    write_predictions(files.predictions, ["images/other/0.JPEG"] * 100, LABELS, answers)
    read_predictions.cache_clear()
    with user_error("fill-zero-.*-s1-test.csv.gz has other images"):
        build.main([], results)


def test_a_model_needs_every_subset_of_a_seed(results, publish):
    publish("task1", BY_FILL["zero"], 55, seeds=(1,), subsets=SUBSETS[:-1])
    setting = only(results)
    model = setting.model(BY_FILL["zero"])
    assert setting.seeds(model) == [0] and setting.seeds(model, ("R",)) == [0, 1]
    zero = next(line for line in ablations(setting) if line["variant"] == "zero")
    assert zero["seeds"] == 1 and zero["mean_sd"] is None


# ---------------------------------------------------------------- figures and documents


@mark.usefixtures("drawn")
def test_every_figure_is_drawn_and_the_same_data_give_the_same_bytes(results, check_figures):
    names = ["task1_map_48px-quarter_toy.png"]
    check_figures(results, names, names)


def test_what_the_figures_show(results):
    data = {name.split("_")[1]: chart.data for name, chart in make_charts(only(results)).items()}
    # best first
    assert [line.name for line in data["map"]] == [SEVEN, "channel-set stem (ours)", "sliced kernel"]


def test_an_interval_is_over_images_and_seeds(root, publish):
    publish("task1", SLICED, 50, seeds=(0,))
    setting = only(root)
    top1, low, high = setting.interval(setting.model(SLICED), ("R",))
    assert (top1, high - top1) == approx((50, 100 * 1.96 * (0.25 / 99) ** 0.5), rel=1e-3)
    publish("task1", CHANNELSET, 40, spread=20)  # seeds that differ by 20 points
    setting = only(root)
    alone = setting.interval(setting.model(SLICED), ("R",))
    assert alone[0] == 50 and alone[2] > high + 5 and alone[1] < low - 5


def test_a_name_has_the_same_style_in_all_panels_of_a_row():
    panels = [
        Panel("epoch", "y", [Series(name, [1, 2], [1, 2]) for name in names]) for names in ("abc", "cb")
    ]
    figure = Figure()
    figures.lines(figure, panels)
    styles = {}
    for axis in figure.axes:
        for (line, *_), name in zip(*axis.get_legend_handles_labels()):
            styles.setdefault(name, set()).add((line.get_color(), line.get_linestyle(), line.get_marker()))
    assert [*styles] == [*"abc"] and {len(each) for each in styles.values()} == {1}
    assert len(set.union(*styles.values())) == 3


def test_points_of_equal_cost_are_side_by_side_and_their_numbers_apart():
    points = [(0, 2.0, y, y - 1, y + 1, 3) for y in (50.0, 50.5, 60.0)] + [(1, 20.0, 50.0, 49.0, 51.0, 1)]
    (a, above), (b, below), (c, _), (d, _) = figures._places(points)
    assert a < 2 < b < 1.4 * a and (c, d) == approx((2, 20)) and abs(above - below) > 2
    assert figures._places(points[:1])[0][0] == approx(2)


def test_a_panel_names_the_seeds_of_its_networks():
    assert seeds_of(NARROW, {"a": 0, "b": 1, "c": 0}) == "preset S, seed 0\nseed 1: b"


def test_build_then_check_finds_what_is_stale(results, publish, stderr):
    publish("task1", Run("secret", "secret", "ours"), 60, dataset="demo")
    build.main([], results)
    build.main(["--check"], results)
    text = (results / "README.md").read_text()
    assert "edit that file -->\nProse.\n**toy" in text and "| channel-set stem (ours) | ours |" in text
    assert "secret" not in text
    assert "(figures/task1_map_48px-quarter_toy.png)" in (results / "report/appendix.md").read_text()
    header, *lines = csv.reader((results / "results/task1/stats.csv").open())
    assert header[-1] == "p_holm" and len(lines) == 16
    changed = {
        results / "README.md": ("60.0", "70.0"),
        results / "results/task1/ablations.csv": ("55.00", "65.00"),
        results / "results/task1/channels.csv": ("62.00", "72.00"),
    }
    texts = {path: path.read_text() for path in changed}
    for path, words in changed.items():
        path.write_text(texts[path].replace(*words))
    lost = results / build.FIGURES / "task1_map_48px-quarter_toy.png"
    drawn = lost.read_bytes()
    left_over = lost.rename(lost.with_name("task1_map_old_toy.png"))
    with exits(1):
        build.main(["--check"], results)
    error = stderr()
    for path in [*changed, lost]:
        assert f"{path.relative_to(results)} does not match results/" in error
    assert "task1_map_old_toy.png (no results for it)" in error
    build.main([], results)
    assert {path: path.read_text() for path in changed} == texts
    assert lost.read_bytes() == drawn and not left_over.exists()


def test_results_of_other_data_never_change_what_the_texts_say(root, publish):
    """A user's own runs appear in the appendix, in tables of their own."""
    text = "It has {{ top1 48px-quarter ours }}: {{ gap 48px-quarter ours sliced }}."
    (root / "report/text/README.md").write_text(text)
    for run, accuracy in ((CHANNELSET, 60), (SLICED, 55)):
        publish("task1", run, accuracy, dataset=DATA, spread=2)
    build.main([], root)
    before = (root / "README.md").read_text()
    assert "It has 61.0: 5.0 (" in before and "–" not in before
    for run, accuracy in ((CHANNELSET, 40), (SLICED, 70)):
        publish("task1", run, accuracy, dataset="mine", spread=20)
    build.main([], root)
    assert (root / "README.md").read_text() == before
    assert "**mine, 48 px" in (root / "report/appendix.md").read_text()


def test_a_broken_record_is_named(results):
    (results / "results/task1/runs/bad.json").write_text("{}")
    with user_error("bad.json is not a record"):
        build.main([], results)


def test_without_results_the_blocks_say_so(root, check_without_results):
    check_without_results(root, "train_task1.py")


@mark.parametrize(
    "text, message",
    [
        ("a\n{{ table task9 }}\n", "README.md:2: unknown table 'task9'"),
        ("a\n\n{{ top9 48px-quarter ours }}", "README.md:3: unknown function 'top9'"),
        ("{{ top1 48px-quarter nobody }}", "README.md:1: unknown model 'nobody'"),
        ("{{ top1 }}", "README.md:1: 'top1': wrong arguments"),
        ("{{ top1 48px-quarter ours mean x }}", "README.md:1: .*wrong arguments .invalid literal.* 'x'"),
        ("{{ csv a.csv b .2f rule='x }}", "README.md:1: .*wrong arguments .No closing quotation"),
        ("{{ about\ndate }}\n{{ about date }", "README.md:3: {{ does not belong to a field"),
        ("a\n { about date }}", "README.md:2: }} does not belong to a field"),
    ],
)
def test_broken_fields_are_named(root, text, message):
    (root / "report/text/README.md").write_text(text)
    with user_error(message):
        build.main([], root)


def test_the_texts_say_which_code_was_changed(publish, tmp_path):
    changed = {"commit": "0" * 40 + "+changes", "hardware": "made up", "threads": 1}
    publish("task1", CHANNELSET, 60, dataset=DATA)
    said = numbers_of(tmp_path)("provenance")
    assert said.startswith("0 of our 2 evaluations") and said.endswith(
        "all trainings ran from clean commits."
    )
    publish("task1", CHANNELSET, 60, seeds=(1,), dataset=DATA, more={"trained_with": changed})
    assert numbers_of(tmp_path)("provenance").endswith("so did the trainings of 1.")


def test_budgets_by_hand(publish, tmp_path):
    """On one channel an answer takes 20 MFLOPs; a training step takes three forward passes, for 30 epochs."""
    publish("task1", CHANNELSET, 60, dataset=DATA)
    publish("task1", LATE_FUSION, 60, dataset=DATA)
    publish_specialists(publish, dataset=DATA)
    numbers = numbers_of(tmp_path)
    answers = {1: 20, 2: 40, 3: 60}
    for runs, params, training, epochs in (
        (CHANNELSET, 1, 60, 30),
        (SPECIALISTS, 7, 60 + 3 * 40 + 3 * 20, 210),
        (LATE_FUSION, 1, 60, 90),
    ):
        found = budget(numbers, runs)
        assert (found.params, found.epochs) == (params, epochs) and found.answers == approx(answers)
        assert found.training == approx(3 * training * 1e6 * 30 * IMAGES / 1e15)
        assert found.answer == approx((60 + 3 * 40 + 3 * 20) / 7)


def test_a_budget_holds_the_training_and_the_answers_of_the_teacher(publish, tmp_path):
    """The teacher's answer takes 200 MFLOPs, the student's 60. The parameters of the teacher do not count."""
    teacher = CHANNELSET.but(width=0.5, epochs=50)
    student = CHANNELSET.but(teacher=teacher.but(seed=0))
    publish("task1", student, 60, dataset=DATA)
    own, taught, answers = 3 * 60e6 * 30, 3 * 200e6 * 50, 200e6 * 30  # FLOPs for each training image
    assert budget(numbers_of(tmp_path), student).training == approx(
        own * IMAGES / 1e15
    )  # no results of the teacher
    publish("task1", teacher, 65, dataset=DATA, params=4_000_000, macs=100_000_000)
    found = budget(numbers_of(tmp_path), student)
    assert found.training == approx((own + taught + answers) * IMAGES / 1e15)
    assert (found.params, found.epochs) == (1, 30 + 50) and found.answers == approx({1: 20, 2: 40, 3: 60})


def test_a_seed_without_results_is_a_dash(publish, tmp_path):
    publish("task1", CHANNELSET, 60, dataset=DATA, seeds=(0,))
    numbers = Numbers(load_settings(tmp_path, "task1")[1], tmp_path / "results")
    assert [numbers(f"top1 {NARROW} ours mean {seed}") for seed in (0, 3)] == ["60.0", "–"]


def test_seeds_are_counted_on_data_of_other_channels(publish, tmp_path):
    publish("task1", CHANNELSET, 60, dataset=f"{DATA}-sobel", subsets=("sobel", "RGBsobel"))
    numbers = Numbers(load_settings(tmp_path, "task1")[1], tmp_path / "results")
    assert numbers("seeds sobel ours") == "two seeds" and numbers("seeds bands ours") == "no seeds"


def test_trainings_in_float32_are_counted(publish, tmp_path):
    for run, amp in ((CHANNELSET, False), (SLICED, True)):
        for each in (run, probed(run, "wrong-ids")):  # the second evaluation of the same training
            publish("task1", each.but(amp=amp), 60, dataset=DATA)
    numbers = Numbers(load_settings(tmp_path, "task1")[1], tmp_path / "results")
    assert [numbers(f"count {what}") for what in ("trainings", "float32")] == ["4", "2"]


def test_core_hours_count_each_training_and_its_threads_once(publish, tmp_path):
    machines = [{"commit": "0" * 40, "hardware": name, "threads": 4} for name in ("made up", "NVIDIA H1")]
    for machine, run in zip(machines, (CHANNELSET, SLICED)):
        more = {"train_s": 7200.0, "trained_with": machine}
        for each in (run, probed(run, "wrong-ids")):  # the second evaluation of the same training
            publish("task1", each, 60, dataset=DATA, more=more)
    numbers = numbers_of(tmp_path)
    assert (numbers("compute cpu"), numbers("compute gpu")) == ("16", "240")  # two seeds


# ---------------------------------------------------------------- names and pictures


def test_class_names_are_readable_and_fall_back_to_the_folder():
    images = ["images/n04146614/a.JPEG", "x/images/cats/b.JPEG", "images/n01532829/c.JPEG"]
    assert class_names(images, [2, 1, 0]) == {0: "house finch", 1: "cats", 2: "school bus"}
    images = ["images/airport/outdoor/a.JPEG", "images/bazaar/outdoor/b.JPEG"]
    assert class_names(images, [0, 1]) == {0: "airport/outdoor", 1: "bazaar/outdoor"}
    assert class_names(["images/a.JPEG", "images/b.JPEG"], [0, 1]) == {0: "0", 1: "1"}


def test_entries_of_one_label_are_told_apart(publish, tmp_path):
    for run in (RGB_ONLY, RGB_ONLY.tested(fill="mean"), CHANNELSET, LONG[60].but(section="ours")):
        publish("task1", run, 60)
    setting = only(tmp_path)
    assert (
        setting.describe(setting.find(RGB_ONLY.tested(fill="mean")))
        == "RGB-trained network (30 epochs, light, mean fill at test)"
    )
    assert len({setting.describe(entry) for entry in setting.compared}) == 4
    assert list(lines_of(setting)[-1].how.values()) == ["mean fill", "30", "light"]


def test_pictures_are_chosen_by_what_the_sets_get_right():
    # RGB, R, G, B of four images
    right = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1]], bool)
    by_subset = {s: np.where(right[max(0, "RGB".find(s) + 1) if len(s) == 1 else 0], 5, 6) for s in SUBSETS}
    chosen = pictures.choose(pictures.kinds_task1(np.full(4, 5), by_subset), each=9)
    with user_error("no test image belongs to any of the kinds needs colour, .*--model"):
        wrong = {name: np.full(4, 6) for name in SUBSETS}
        pictures.choose(pictures.kinds_task1(np.full(4, 5), wrong), each=9)
    assert chosen == {
        "needs colour": [0],
        "one channel is enough": [1],
        "depends on the channel": [2],
        "colour misleads": [3],
    }


def test_pictures_need_results_of_the_model(results):
    with user_error("no results of model 'nothing' .presets: 48px-quarter"):
        pictures.main(["--model", "nothing"], results)
    with user_error("--preset 64px-half: .*has no such preset, only 48px-quarter"):
        pictures.main(["--preset", "64px-half"], results)


def test_the_ablation_table_compares_with_something():
    for group, variants in ABLATIONS.items():
        assert len(variants) > 1 and len({label for label, *_ in variants}) == len(variants), group


def test_agreement_is_the_share_of_pairs_of_sets_with_the_same_answer():
    labels = np.arange(8) % 2
    answers = {name: labels.copy() for name in SUBSETS}
    answers["B"] = np.where(np.arange(8) >= 4, 1 - labels, labels)  # the last four images: wrong from B alone
    images = [f"images/{('finch', 'wok')[label]}/{i}.JPEG" for i, label in enumerate(labels)]
    setting = SimpleNamespace(
        predictions=lambda entry, column: [Predictions(images, labels, {column: entry[column]})]
    )
    same = dict.fromkeys(SUBSETS, dict.fromkeys(SUBSETS, labels))
    found = {"ours": (setting, dict.fromkeys(SUBSETS, answers)), "sliced": (setting, same)}
    numbers = SimpleNamespace(find=lambda preset, name: found[name])
    # six of the 21 pairs of sets hold B, and half of the images change there
    assert Numbers.agreeing(numbers, "48px-quarter", "ours") == f"{100 * (1 - 6 / 21 / 2):.0f}" == "86"
    assert Numbers.agreeing(numbers, "48px-quarter", "sliced") == "100"


def test_classes_that_need_colour_are_chosen_on_other_images():
    """The wok loses on the images that choose, the finch on those that count, and the zoo on both."""
    labels = np.repeat([0, 1, 2], 8)
    images = [f"images/{('finch', 'wok', 'zoo')[label]}/{i}.JPEG" for i, label in enumerate(labels)]
    right = {name: np.ones(24) for name in SUBSETS}
    right["R"][1:8:2] = right["R"][8:16:2] = 0  # finch: odd positions; wok: even positions
    right["G"][16:20] = 0  # zoo: both halves
    setting = SimpleNamespace(
        predictions=lambda entry, column: [Predictions(images, labels, {})],
        # of two seeds, the second is always right
        correct=lambda model, columns: np.array(
            [2 * np.mean([right[column] for column in columns], 0) - 1, np.ones(24)]
        ),
    )
    numbers = SimpleNamespace(find=lambda preset, name: (setting, dict.fromkeys(SUBSETS, 1)))
    rows = [line.strip("| ").split(" | ")[:2] for line in colour_table(numbers).splitlines()[2:]]
    assert rows == [["wok", "100 / 100"], ["zoo", "100 / 83"], ["finch", "100 / 67"]]
    nothing = SimpleNamespace(find=lambda preset, name: (None, None))
    assert colour_table(nothing) == ""


def test_predictions_stand_beside_what_was_measured(monkeypatch):
    monkeypatch.setattr("grids.task1.PREDICTED", (("a", OURS, 50), ("b", OTHER, 40, "R"), ("c", RGB_ONLY, 9)))
    monkeypatch.setattr("grids.task2.PREDICTED", ())
    measured = {(OURS, "mean"): [51.0, 53.0], (OTHER, "R"): [37.0], (RGB_ONLY, "mean"): []}
    numbers = SimpleNamespace(by_seed=lambda preset, run, group="mean": measured[run, group])
    text = predictions_table(numbers)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:4]]
    assert rows == [["a", "2", "50.0", "52.0 ± 1.4", "+2.0"], ["b", "1", "40.0", "37.0", "−3.0"]]
    assert "these 2 predictions is 2.5 points; 1 networks" in text


def test_words_stand_at_the_left_of_a_table_and_numbers_at_the_right():
    lines = [["ours", "many sets", "–", "L", "7x7/2", "–"], ["sliced", "–", "+1.2", "S", "right", "–"]]
    rule = markdown.table_of([dict(zip("abcdef", line)) for line in lines]).splitlines()[1]
    assert rule == "| --- | --- | ---: | --- | ---: | ---: |"
