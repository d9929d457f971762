"""Training and evaluation as a user runs them: resume, Ctrl-C, errors, results."""

import csv
import functools
import gzip
import json
import multiprocessing
import os
import pickle
import runpy
import shutil
import signal
import socket
import sys
from pathlib import Path

import torch
from helpers import FEW, exits, read_json, read_jsonl, same_weights, user_error, weights
from pytest import approx, importorskip, mark, param

import eval_channels
import train_task1
import train_task2
from config import Task1Config, Task2Config, differing, folder_name, identity, training_name
from engine import step
from storage.checkpoint import load_checkpoint, save_checkpoint
from utils import ROOT, parse_config

# ---------------------------------------------------------------- runs


def test_a_run_directory_tells_everything(trained):
    folder = trained.parent
    config, environment = (read_json(folder / name) for name in ("config.json", "environment.json"))
    assert (
        config["fill"] == "regression"
        and config["sampler"] == "hcs"
        and config["seed"] == 0
        and config["preset"] == "64px-half"
    )
    assert environment["torch"] == torch.__version__ and environment["commit"] == os.environ["GIT_COMMIT"]
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert ["val_mean_pct" in line for line in lines] == [False, True, True]
    assert set(lines[-1]["val_top1_pct"]) == {"RGB", "RG", "RB", "GB", "R", "G", "B"}
    checkpoint = load_checkpoint(trained, "task1-model")
    assert len(checkpoint["dataset"]["digest"]) == 64 and checkpoint["dataset"]["channel_names"] == (
        "R",
        "G",
        "B",
    )


def test_interrupted_and_resumed_equals_uninterrupted(train, trained, stderr, interrupted):
    """A signal stops the run within an epoch, then in the last step of an epoch."""
    for call, done, number in ((2, 2, signal.SIGINT), (4, 6, signal.SIGTERM)):
        with interrupted(call, number):
            train("--out cut --resume")
        assert f"stopped after step {done} of 9" in stderr()
        with open(
            "cut/metrics.jsonl", "a"
        ) as file:  # as if killed between the line of an epoch and its state
            file.write('{"epoch": 99}\n')
    train("--out cut --resume")
    assert same_weights(trained, "cut/model.pt")
    whole, cut = (
        [{**line, "train_s": 0} for line in read_jsonl(f"{name}/metrics.jsonl")] for name in ("run", "cut")
    )
    assert whole == cut


def test_another_seed_is_another_training(train, trained):
    train("--out other --seed 1")
    first, other = (weights(path)["conv1.weight"] for path in (trained, "other/model.pt"))
    assert not torch.equal(first, other)


@mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_has_the_same_losses_and_its_run_resumes_without(
    command, tiny, interrupted, monkeypatch
):
    """The graphs are captured and run, but not translated to C++, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    words = [*tiny, "--arch plain6-k5 --widths 8 --kernels 3"]
    command(train_task2, *words, "--out run")
    with interrupted(5):
        command(train_task2, *words, "--out compiled --compile")
    command(train_task2, *words, "--out compiled --resume")
    first, other = (read_jsonl(f"{name}/metrics.jsonl")[0]["loss"] for name in ("run", "compiled"))
    assert other == approx(first, abs=2e-3)  # of three steps; later ones drift apart on so few images
    assert weights("run/model.pt").keys() == weights("compiled/model.pt").keys()


def test_a_run_is_never_overwritten_nor_resumed_with_other_options(train, trained, tiny_dataset):
    before = trained.read_bytes()
    with user_error("already holds a run: add --resume"):
        train("--out run")
    with user_error("--lr 0.01, not with --lr 0.5"):
        train("--out run --resume --lr 0.5")
    listed = tiny_dataset / "train.txt"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[1:]))
    with user_error("other data: its lists.*choose another --out"):
        train("--out run --resume")
    assert trained.read_bytes() == before


def test_a_network_without_its_run_is_not_replaced(train, trained):
    Path("given").mkdir()
    Path("given/model.pt").write_bytes(trained.read_bytes())
    for options in ([], ["--resume"]):
        with user_error("given holds a model.pt.*choose another --out"):
            train("--init-from given/model.pt --out given", *options)
    assert Path("given/model.pt").read_bytes() == trained.read_bytes()


def test_a_share_of_the_images_resumes_and_is_not_mixed_with_another(command, tiny, interrupted):
    half = [*tiny, "--fraction", "0.5"]  # 6 images: one step an epoch
    command(train_task1, *half, "--out run")
    with interrupted(2):
        command(train_task1, *half, "--out cut")
    for options, message in (
        (tiny, "--fraction 0.5, not with --fraction 1.0"),
        ([*half, "--fraction", "0.75"], "--fraction 0.5, not with --fraction 0.75"),
    ):
        with user_error(message):
            command(train_task1, *options, "--out cut --resume")
    command(train_task1, *half, "--out cut --resume")
    assert same_weights("run/model.pt", "cut/model.pt")


def test_runs_from_before_the_share_used_all_images(train, trained, evaluate):
    """Their checkpoints and records have no such option: they resume, are evaluated and compared as those of
    all images.
    """
    evaluate(trained, *FEW)
    for path, kind in (("run/last.pt", "training-state"), ("run/model.pt", "task1-model")):
        state = load_checkpoint(path, kind)
        del state["config"]["fraction"]
        save_checkpoint(path, state)
    # the record has the option, the model has not
    evaluate(trained, *FEW)
    (record,) = Path("results/task1/runs").glob("*channelset*.json")
    other = read_json(record)
    del other["checksums"]
    record.write_text(json.dumps({**other, "config": {**other["config"], "fraction": 0.5}}))
    with user_error("other options: add --name"):
        evaluate(trained, *FEW)
    with user_error("--fraction 1.0, not with --fraction 0.5"):
        train("--out run --resume --fraction 0.5")
    train("--out run --resume")


def test_every_seed_trains_on_the_same_share_and_calibrates_on_it(train, monkeypatch, evaluate):
    seen = []

    def spy(cache, split, *args):
        batches = make(cache, split, *args)
        seen.extend([batches] if split == "train" else [])
        return batches

    make = train_task1.make_batches
    monkeypatch.setattr(train_task1, "make_batches", spy)
    monkeypatch.setattr(eval_channels, "make_batches", spy)
    for seed in (0, 1):
        train("--fraction 0.5 --epochs 1 --out", f"run{seed}", "--seed", seed)
    evaluate("run1/model.pt", "--probe recalibrated-bn", *FEW)
    assert len(seen) == 3 and all(
        len(batches) == 6 and torch.equal(batches.images, seen[0].images) for batches in seen
    )


def test_a_loss_that_is_not_finite_stops_the_run(train, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(step.F, "cross_entropy", lambda logits, labels, **_: logits.sum() * float("nan"))
        with user_error("loss became nan in epoch 1.*--lr"):
            train("--out run")
    assert not Path("run/model.pt").exists()


def test_weights_that_are_not_finite_stop_the_run(train, monkeypatch):
    """The loss is 0, its gradient is not a number; one step an epoch, so no loss shows it in time."""
    monkeypatch.setattr(step.F, "cross_entropy", lambda logits, labels, **_: (logits * 0).abs().sum().sqrt())
    with user_error("weights are not finite in epoch 1"):
        train("--batch-size 12 --out run")
    assert not Path("run/last.pt").exists()


@mark.parametrize(
    "options",
    [
        "--fill learned --kernel tied --sampler hcs-batch",
        "--fill luma_chroma --stem 3x3s1 --augment strong",
        "--fill black --no-channels-last",
        "--fill grey --amp --image-size 32",
        "--fill rescale --no-embedding --kernel hypernet --kernel-size 3",
        "--fill conditioned",
        "--fill by_size --kernel templates --templates 2 --sampler sandwich --train-channels RG",
        "--kernel omni",
    ],
)
def test_every_variant_trains_and_evaluates(train, options, read_rows, evaluate):
    train("--epochs 1 --out run", options)
    evaluate("run/model.pt", *FEW[:-1], 1)
    rows = read_rows("results/task1/channels.csv")
    assert [row["subset"] for row in rows] == ["RGB", "R"]
    whole = {"black", "conditioned", "omni"} & set(options.split())  # these convolve all channels
    all_macs, one_macs = rows[0]["macs"], rows[-1]["macs"]  # the offset of all channels needs no product
    assert all_macs == approx(one_macs, rel=0.01) if whole else all_macs > one_macs


def test_a_resumed_run_needs_its_teacher_but_not_its_initial_weights(command, trained, tiny, interrupted):
    """It also goes on if both files were moved, but not if they hold other weights."""
    shutil.copy(trained, "initial.pt"), shutil.copy(trained, "teacher.pt")
    words = [*tiny, "--out", "cut", "--init-from", "initial.pt", "--teacher", "teacher.pt"]
    with interrupted(2):
        command(train_task1, *words)
    Path("initial.pt").unlink()
    other = torch.load("teacher.pt", weights_only=True)
    other["state"]["fc.bias"] += 1
    torch.save(other, "teacher.pt")
    with user_error("--teacher teacher.pt has other weights than the teacher"):
        command(train_task1, *words, "--resume")
    shutil.copy(trained, "moved.pt")
    words = [*words[:-1], "moved.pt", "--resume"]
    with interrupted(1):
        command(train_task1, *words)
    with user_error("it was started with --init-from initial.pt, not with --init-from teacher.pt"):
        command(train_task1, *words, "--init-from", "teacher.pt")
    command(train_task1, *words, "--init-from", "moved.pt")
    assert load_checkpoint("cut/model.pt", "task1-model")["config"]["init_from"] == "moved.pt"


def test_distillation_learns_from_the_teacher(train, trained):
    train("--teacher", trained, "--distill-ramp 0 --out student")
    plain, student = (
        load_checkpoint(path, "task1-model")["state"]["fc.weight"] for path in (trained, "student/model.pt")
    )
    assert student.isfinite().all() and not torch.equal(plain, student)
    with user_error("--teacher run/model.pt: teacher and student must both take all channels"):
        train("--channels R --teacher", trained, "--out other")


def test_a_network_learns_from_its_own_average_and_resumes_exactly(command, tiny, interrupted, monkeypatch):
    teachers, distillation = [], step.TrainStep._distillation

    def watched(self, images, logits):
        teachers.append(self.teacher is self.average.module and not self.teacher.training)
        return distillation(self, images, logits)

    monkeypatch.setattr(step.TrainStep, "_distillation", watched)
    words = [*tiny, "--teacher self --distill-ramp 0"]
    command(train_task1, *words, "--out whole")
    with interrupted(5):
        command(train_task1, *words, "--out cut")
    command(train_task1, *words, "--out cut --resume")
    assert teachers and all(teachers) and same_weights("whole/model.pt", "cut/model.pt")
    config = load_checkpoint("whole/model.pt", "task1-model")["config"]
    assert config["teacher"] == "self"
    assert ("teacher", "self") in identity(Task1Config.of(config))  # a grid finds the run by its options


def test_weight_of_distillation_rises_with_the_ramp(train, trained, monkeypatch):
    """A teacher's loss of 1 is added with a share that rises from 0 to --distill-weight."""
    losses = []
    monkeypatch.setattr(step.TrainStep, "_distillation", lambda self, images, logits: logits.sum() * 0 + 1)
    monkeypatch.setattr(step.F, "cross_entropy", lambda logits, labels, **_: logits.sum() * 0)
    run = step.TrainStep.run
    monkeypatch.setattr(
        step.TrainStep,
        "run",
        lambda self, number: (run(self, number), losses.append(self.losses[number % self.per_epoch].item())),
    )
    train("--teacher", trained, "--distill-ramp 0.5 --distill-weight 0.9 --out student")
    assert losses == approx([min(0.9, 0.9 * number / 4.5) for number in range(9)])


def test_specialist_knows_one_set(train, read_rows, evaluate):
    train("--channels GB --epochs 1 --out run")
    evaluate("run/model.pt", "--repeats 0")
    rows = read_rows("results/task1/channels.csv")
    assert [(row["section"], row["model"], row["subset"]) for row in rows] == [
        ("specialist", "specialist", "GB")
    ] * 2
    assert "channels=GB" in rows[0]["options"]


def test_a_model_of_two_channels_knows_their_subsets(train, read_rows, evaluate):
    train("--channels GR --sampler hcs --epochs 1 --out run")
    evaluate("run/model.pt", "--split val --repeats 0")
    rows = read_rows("results/task1/channels.csv")
    assert {(row["section"], row["model"]) for row in rows} == {("ours", "channelset")}
    assert {row["subset"] for row in rows} == {"RG", "R", "G"}


@mark.parametrize(
    "options, expected",
    [
        ({}, ("regression", "hcs", True, "ours", "channelset")),
        ({"sampler": "none"}, ("zero", "none", False, "baseline", "rgb-only")),
        ({"channels": "B"}, ("zero", "none", False, "specialist", "specialist")),
        ({"channels": "B,G,R"}, ("regression", "hcs", True, "ours", "channelset")),
        ({"channels": "B", "fraction": 0.1}, ("zero", "none", False, "specialist", "specialist")),
        ({"kernel": "tied", "fraction": 0.5}, ("regression", "hcs", True, "baseline", "channelset")),
        ({"fill": "rescale", "embedding": False}, ("rescale", "hcs", False, "baseline", "sliced")),
        ({"fill": "mean"}, ("mean", "hcs", True, "ours", "fill-mean")),
        ({"sampler": "none", "fill": "regression"}, ("regression", "none", False, "baseline", "rgb-only")),
        (
            {"sampler": "hcs-batch", "kernel": "tied"},
            ("regression", "hcs-batch", True, "baseline", "channelset"),
        ),
    ],
)
def test_defaults_follow_from_the_options_and_never_overrule_them(options, expected):
    config = Task1Config(device="cpu", **options).resolve()
    section = eval_channels.default_section(config, False, {})
    assert (config.fill, config.sampler, config.embedding, section, config.name) == expected


def test_runs_of_other_options_have_other_folders_and_of_other_seeds_one_key():
    def key(**options):
        config = Task1Config(device="cpu", **options).resolve()
        return folder_name(config), identity(config)

    (folder, first), (other, same) = key(), key(seed=1)
    assert (
        first == same
        and folder[:-1] == other[:-1]
        and folder.startswith("channelset-")
        and folder.endswith("-s0")
    )
    assert key(out="elsewhere", threads=3, name="x")[1] == first != key(lr=0.3)[1]
    assert key(train_channels="BGR", max_failed=0.5)[1] == first != key(train_channels="RG")[1]
    assert (
        key(teacher="a", taught_by="x")[1]
        == key(teacher="b", taught_by="x")[1]
        != key(taught_by="y", teacher="a")[1]
    )


def test_sides_in_any_order_are_one_training():
    one, same = (Task1Config(device="cpu", train_sizes=sides).resolve() for sides in ("40,48", "48, 40,40"))
    assert identity(one) == identity(same)


@mark.parametrize(
    "cls, repeated",
    [
        (Task1Config, {"kernel_size": 7}),
        (Task1Config, {"stem_pool": True}),
        (Task1Config, {"stem": "3x3s1", "stem_pool": False, "kernel_size": 3}),
        (Task2Config, {"arch": "resnet34", "stem_pool": True}),
        (Task2Config, {"arch": "gated6-k3", "gates": True, "kernels": "3", "gate_kind": "both"}),
        (Task2Config, {"arch": "plain6-k5", "widths": "128,256,512,512", "reparam": False}),
    ],
)
def test_an_option_that_repeats_the_default_makes_no_other_training(cls, repeated):
    base = {key: value for key, value in repeated.items() if key in ("arch", "stem")}
    assert folder_name(cls(**repeated).resolve()) == folder_name(cls(**base).resolve())


@mark.parametrize("side, able, amp", [(32, True, True), (31, True, False), (32, False, False)])
def test_small_images_and_old_processors_train_in_float32(monkeypatch, side, able, amp):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    assert Task1Config(device="cpu", image_size=side).resolve().amp is amp


def test_a_teacher_of_an_older_version_is_known_by_the_name_of_its_folder():
    """Such a version wrote the path of the teacher alone; its folder was NAME-OPTIONS-sSEED."""
    teacher = Task1Config(device="cpu", sampler="none").resolve()
    path = f"runs/p/{folder_name(teacher)}/model.pt"
    new = {
        **vars(Task1Config(device="cpu").resolve()),
        "teacher": "moved.pt",
        "taught_by": training_name(teacher),
    }
    old, elsewhere, other = (
        {key: value for key, value in {**new, "teacher": place}.items() if key != "taught_by"}
        for place in (path, "moved.pt", path.replace("-s0", "x-s0"))
    )
    assert identity(Task1Config.of(old)) == identity(Task1Config.of(new)) != identity(Task1Config.of(other))
    for written in (old, elsewhere, {**old, "teacher": training_name(teacher)}):  # as a record has it, too
        assert differing(new, written, Task1Config) == {}
    assert differing(new, other, Task1Config) == {
        "teacher": (training_name(teacher), training_name(teacher) + "x")
    }
    assert differing(new, {**new, "taught_by": "x"}, Task1Config).keys() == {"teacher"}
    assert differing(new, {**new, "teacher": "a"}, Task1Config) == {}


def test_two_processes_of_torchrun(train, monkeypatch, capfd):
    """torchrun gives its processes these variables. Forks of this process need not import PyTorch."""

    def work(rank: int):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        train("--epochs 2 --out run --threads 1")

    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    both = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=600)
    shown = capfd.readouterr()
    assert [process.exitcode for process in both] == [0, 0], shown.err[-3000:]
    lines = read_jsonl("run/metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2]  # one process writes, not both
    assert shown.out.count("wrote") == 1
    load_checkpoint("run/model.pt", "task1-model")


# ---------------------------------------------------------------- results


def test_evaluation_writes_table_record_and_predictions(trained, read_rows, evaluate):
    evaluate(trained, "--repeats 1 --label", "ours, tiny")
    rows = read_rows("results/task1/channels.csv")
    assert len(rows) == 14 and {row["split"] for row in rows} == {"val", "test"}
    assert {(row["section"], row["label"], row["preset"]) for row in rows} == {
        ("ours", "ours, tiny", "64px-half")
    }
    assert {(row["epochs"], row["augment"], row["weight_decay"]) for row in rows} == {(3, "light", 0.0005)}
    name = rows[0]["run"]
    record = read_json(Path(f"results/task1/runs/{name}.json"))
    assert name.startswith("64px-half-tiny-8px-channelset-") and record["task"] == "task1"
    assert (
        record["trained_with"]["commit"]
        and len(record["dataset_digest"]) == 64
        and len(record["history"]) == 3
    )
    assert rows[0]["hardware"] == record["trained_with"]["hardware"]
    with gzip.open(f"results/task1/predictions/{name}-test.csv.gz", "rt") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 6 and predictions[0]["image"].startswith("images/")
    for row in rows:  # the table can be computed again from the predictions
        if row["split"] == "test":
            hits = sum(line[row["subset"]] == line["label"] for line in predictions)
            assert row["top1_pct"] == round(100 * hits / 6, 2)
    last = record["history"][-1]  # the last validation of the training measures the same network
    validated = {row["subset"]: row for row in rows if row["split"] == "val"}
    assert last["val_top1_pct"] == {subset: row["top1_pct"] for subset, row in validated.items()}
    mean = sum(row["loss"] for row in validated.values()) / 7
    assert last["val_loss"] == approx(mean, abs=2e-4)
    averages = load_checkpoint("run/last.pt", "training-state")["ema"]  # and model.pt holds the average
    for key, value in load_checkpoint(trained, "task1-model")["state"].items():
        assert torch.equal(value, averages[f"module.{key}"]), key


def test_rgb_network_under_other_fill_rules(train, read_rows, evaluate):
    train("--sampler none --epochs 1 --out run")
    for fill in ("black", "regression"):
        evaluate("run/model.pt", "--fill", fill, *FEW)
    evaluate("run/model.pt", "--section specialist --name s --repeats 0")
    rows = read_rows("results/task1/channels.csv")
    assert {(row["model"], row["test_fill"], row["section"]) for row in rows} == {
        ("rgb-only", "black", "baseline"),
        ("rgb-only", "regression", "baseline"),
        ("s", None, "specialist"),
    }
    assert [row["subset"] for row in rows if row["model"] == "s"] == ["RGB", "RGB"]
    full = {row["top1_pct"] for row in rows if row["subset"] == "RGB" and row["split"] == "test"}
    assert len(full) == 1  # with all channels every rule is the plain network


def test_results_of_other_options_stand_beside(train, command, trained, read_rows, evaluate):
    evaluate(trained, *FEW)
    train("--lr 0.02 --epochs 1 --out other")
    evaluate("other/model.pt", *FEW)
    rows = read_rows("results/task1/channels.csv")
    assert len({row["run"] for row in rows}) == 2 and len(rows) == 4
    assert {word for row in rows for word in row["options"].split() if word.startswith("lr=")} == {
        "lr=0.01",
        "lr=0.02",
    }
    Path("alone").mkdir()
    Path("alone/model.pt").write_bytes(trained.read_bytes())  # a model copied without its log
    command(eval_channels, "alone/model.pt", "--results elsewhere", *FEW)


# ---------------------------------------------------------------- bad input


@mark.parametrize(
    "options, message",
    [
        ("--image-size 0", "--image-size 0: must be from 1 to 4096"),
        ("--channels X", "no channel 'X'; the channels are R, G, B"),
        ("--channels RR", "repeat a channel"),
        ("--device gpu", "--device gpu: expected"),
        ("--fraction 0", "--fraction 0.0: must be from 1e-06 to 1"),
        ("--batch-size 1", "at least 2"),
        ("--train-sizes 40,x", "--train-sizes 40,x: give whole numbers"),
        ("--train-sizes 0,40", "--train-sizes 0,40: give whole numbers"),
        ("--data nowhere", "nowhere"),
        ("--train-channels RG --sampler none", "--train-channels needs a --sampler"),
        ("--train-channels RX", "no channel 'X'"),
        ("--kernel-size 4", "--kernel-size 4: must be odd"),
        ("--distill-weight 2", "--distill-weight 2.0: must be from 0 to 1"),
        ("--distill-weight 0.9", "--distill-weight has no effect without a --teacher: add a --teacher, or"),
        ("--set-shares R:0.5 --sampler none", "--set-shares has no effect without a --sampler"),
        ("--templates 5", "--templates has no effect without --kernel templates"),
        param(
            "--device cuda",
            "--device cuda:0: expected",
            marks=mark.skipif(torch.cuda.is_available(), reason="has CUDA"),
        ),
    ],
)
def test_bad_options_name_the_option(train, options, message):
    with user_error(message):
        train(options)


def test_what_needs_no_pixels_is_checked_before_they_are_decoded(train, command, monkeypatch, tiny):
    folder = Path("runs/tiny-8px", folder_name(parse_config(Task1Config, tiny).resolve()))
    folder.mkdir(parents=True)
    (folder / "last.pt").touch()
    monkeypatch.setattr("data.dataset.open_cache", None)
    with user_error(f"{folder} already holds a run: add --resume"):
        train()  # without --out
    with user_error("has strict depth 6, above 5"):
        command(train_task2, *tiny, "--arch plain6-k5 --max-depth 5")
    with user_error("--max-depth has no effect without a network of models/shallow.py"):
        command(train_task2, *tiny, "--max-depth 5")
    with user_error("--pooled-gates has no effect without --gates"):
        command(train_task2, *tiny, "--arch plain6-k5 --pooled-gates")


def test_a_resumed_run_in_the_folder_of_its_options_keeps_its_threads_and_weights(
    command, tiny, trained, interrupted, capsys
):
    begun = [*tiny, "--init-from", "run/model.pt"]
    with interrupted(2):
        command(train_task1, *begun, "--threads 1")
    shutil.rmtree("run")  # the weights to start from are not needed any more
    capsys.readouterr()
    command(train_task1, *begun, "--resume")
    shown = capsys.readouterr()
    assert "of which 2 steps are done" in shown.err and "one per idle core" not in shown.err


def test_a_run_of_another_precision_is_not_resumed(train, interrupted):
    with interrupted(2):
        train("--no-amp")
    with user_error(r"with --no-amp, not with --amp; give its options again, or choose another --out"):
        train("--amp --resume")


@mark.parametrize(
    "options, message",
    [
        (["--epoch", "3"], "unknown argument --epoch; did you mean --epochs?"),
        (["--fill", "wiener"], "invalid choice: 'wiener'"),
        (["--imagesize=9"], "unknown argument --imagesize; did you mean --image-size?"),
        (["stray"], "unknown argument stray; "),
    ],
)
def test_unknown_options_name_the_nearest(command, stderr, options, message):
    with exits(2):
        command(train_task1, *options)
    assert message in stderr()


def test_errors_are_one_line_and_status_two(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eval_channels.py", "none.pt"])
    with exits(2):
        runpy.run_path(str(ROOT / "eval_channels.py"), run_name="__main__")
    assert capsys.readouterr() == (
        "",
        "error: no checkpoint at none.pt: check the path, or train the network first\n",
    )


def test_a_run_that_was_interrupted_is_continued_before_its_evaluation(tmp_path):
    (tmp_path / "last.pt").touch()
    with user_error(f"not finished; continue it with --resume --out {tmp_path}"):
        load_checkpoint(tmp_path / "model.pt", "task1-model")


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self):
        return os.mkdir, ("bomb-went-off",)


def test_checkpoints_that_are_not_ours(trained, tmp_path, evaluate):
    good = trained.read_bytes()
    Path("truncated.pt").write_bytes(good[: len(good) // 2])
    Path("text.pt").write_text("not a checkpoint")
    Path("bomb.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"weight": torch.zeros(3)}, "foreign.pt")
    torch.save(Bomb(), "bomb2.pt")
    for name, message in (
        ("truncated", "truncated"),
        ("text", "truncated"),
        ("bomb", "not a readable"),
        ("bomb2", "not a readable"),
        ("foreign", "not a checkpoint of this project"),
        ("../", "it is a folder|no checkpoint"),
    ):
        with user_error(message):
            evaluate(f"{name}.pt" if name != "../" else tmp_path)
    with user_error("'training-state' checkpoint; expected 'task1-model'"):
        evaluate("run/last.pt")
    assert not Path("bomb-went-off").exists() and not Path("results").exists()


def test_checkpoint_of_another_architecture(trained, evaluate):
    state = load_checkpoint(trained, "task1-model")
    for change in ({"arch": "resnet18"}, {"width": 0.2}, {"arch": "resnet99"}):
        save_checkpoint("other.pt", {**state, "config": {**state["config"], **change}})
        with user_error("other.pt holds (an option that this version|another architecture)"):
            evaluate("other.pt")


def test_evaluation_refuses_other_data_unknown_channels_and_repeats(trained, tiny_dataset, evaluate):
    for subsets, message in (("X", "no channel 'X'"), ("RG GR", "named twice")):
        with user_error(message):
            evaluate(trained, "--subsets", subsets)
    with user_error("were trained for rule 'regression'"):
        evaluate(trained, "--fill luma_chroma")
    lines = (tiny_dataset / "test.txt").read_text().splitlines()
    (tiny_dataset / "test.txt").write_text("\n".join(lines[:-1]))
    with user_error("name the data of its training with --data"):
        evaluate(trained)


def test_full_disk_keeps_the_old_checkpoint(tmp_path):
    resource = importorskip("resource")  # not on Windows
    path, limits = tmp_path / "last.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    save_checkpoint(path, {"kind": "training-state", "step": 1})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # the system refuses to write more
        with user_error("cannot write .*last.pt.*free some disk space"):
            save_checkpoint(path, {"kind": "training-state", "step": 2, "weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
