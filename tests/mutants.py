"""Break the code on purpose, one line at a time: a test must notice each change.

    python -m tests.mutants                # all, about twenty minutes on two cores
    python -m tests.mutants M02 kills      # some

A change is made in a copy of the repository, where the test that it names is run: it must fail. Without a change it
must pass. A test "robust:FAULT" is a part of tests/robust.py; the rows of its table that the change names must fail.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from utils import ROOT, ArgumentParser, UserError, cli


class Mutant(NamedTuple):
    """A change of one place in a file, and the test that must notice it.

    `rows`: beginnings of the rows in the table of tests/robust.py that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    rows: tuple[str, ...] = ()


MUTANTS = (
    Mutant(
        "M02 a file is copied over the old one",
        "storage/files.py",
        "os.replace(temporary, path)\n        sync",
        "shutil.copy(temporary, path)\n        sync",
        "test_damage.py::test_a_file_that_is_replaced_is_another_file_and_on_the_disk_first",
    ),
    Mutant(
        "M08 random numbers do not go on",
        "engine/trainer.py",
        'torch.set_rng_state(state["torch_rng"])',
        "pass",
        "test_damage.py::test_all_random_numbers_go_on_where_they_were",
    ),
    Mutant(
        "M20 a table of results without its lock",
        "engine/records.py",
        "    with one_at_a_time(files.folder / files.task):\n        save_record",
        "    if True:\n        save_record",
        "test_records.py::test_evaluations_write_one_table_in_turn",
    ),
    Mutant(
        "M24 a busy training has failed",
        "experiments.py",
        "if job.process.returncode == BUSY:",
        "if False:",
        "test_experiments.py::test_a_training_that_is_busy_is_tried_again",
    ),
    Mutant(
        "M28 a downloaded zip is not checked",
        "data/archive.py",
        "        _check(url, part)\n",
        "",
        "test_data_prepare.py::test_a_damaged_picture_in_a_download_is_named",
    ),
    Mutant(
        "M34 a resumed run forgets its seconds",
        "engine/trainer.py",
        'state["step"], state["seconds"], state["loss_sum"]',
        'state["step"], 0.0, state["loss_sum"]',
        "test_damage.py::test_the_seconds_of_both_parts_are_added",
    ),
    Mutant(
        "M51 a run goes on with another number of processes",
        "engine/trainer.py",
        'if state["world"] != self.processes.world:',
        "if False:",
        "test_damage.py::test_a_run_goes_on_with_as_many_processes",
    ),
    Mutant(
        "M53 a training gives its lock back at once",
        "engine/trainer.py",
        "lock = hold(self.folder)\n",
        "lock = hold(self.folder)\n                lock.release()\n",
        "test_damage.py::test_a_training_keeps_others_out_until_it_ends",
    ),
    Mutant(
        "sync: bytes are not waited for",
        "storage/files.py",
        "        sync(temporary)\n",
        "",
        "test_damage.py::test_a_file_that_is_replaced_is_another_file_and_on_the_disk_first",
    ),
    Mutant(
        "older: no state before the last",
        "engine/trainer.py",
        "state = load_checkpoint(path,",
        "state = load_checkpoint(saved[0],",
        "test_damage.py::test_a_run_goes_on_from_the_older_state_where_the_last_is_damaged",
    ),
    Mutant(
        "terminal: its end is not heard",
        "engine/trainer.py",
        'names.append("SIGHUP")',
        "pass",
        "test_damage.py::test_the_end_of_the_terminal_saves_unless_nohup_ignores_it",
    ),
    Mutant(
        "record: its checksum is not compared",
        "engine/records.py",
        'record["checksums"]["record"] != record_checksum(record)',
        "False",
        "test_records.py::test_damage_is_named_at_every_build_and_never_published",
    ),
    Mutant(
        "top-1: it is not computed again",
        "engine/records.py",
        'if not abs(top1 - row["top1_pct"]) < 1e-6:',
        "if False:",
        "test_records.py::test_damage_is_named_at_every_build_and_never_published",
    ),
    Mutant(
        "log: it is not written again",
        "engine/trainer.py",
        'write_text(self.folder / "metrics.jsonl", text)',
        "pass",
        "test_damage.py::test_a_damaged_log_is_written_again",
    ),
    Mutant(
        "kills: the optimizer is not restored",
        "engine/trainer.py",
        'self.optimizer.load_state_dict(state["optimizer"])',
        "pass",
        "robust:kills",
        ("training killed between",),
    ),
    Mutant(
        "kills: nothing was saved, and --resume is refused",
        "engine/trainer.py",
        "        return None\n\n    def open",
        '        if self.config.resume:\n            raise UserError("")\n        return None\n\n    def open',
        "robust:kills",
        ("process killed in its first",),
    ),
    Mutant(
        "bits: a cache's checksums are not compared",
        "data/cache.py",
        "if checksum(self.folder / name) != expected:",
        "if False:",
        "robust:bits",
        ("pixel cache",),
    ),
    Mutant(
        "bits: the checksums in a checkpoint are not compared",
        "storage/checkpoint.py",
        "            damaged = archive.testzip()\n",
        "            damaged = None\n",
        "robust:bits",
        ("checkpoint",),
    ),
    Mutant(
        "weights: values that are not finite pass",
        "storage/checkpoint.py",
        "    broken = _not_finite(state)\n",
        '    broken = ""\n',
        "robust:weights",
        ("evaluation of", "--teacher of", "--resume of"),
    ),
    Mutant(
        "weights: a file that is no checkpoint is not named",
        "storage/checkpoint.py",
        "    except Exception as error:  # torch raises many types",
        "    except KeyError as error:  # torch raises many types",
        "robust:weights",
        ("a file of another task",),
    ),
    Mutant(
        "options: ranges are not checked",
        "utils.py",
        "        if None not in (value, most) and not least",
        "        if False and not least",
        "robust:options",
        ("train_task1.py", "train_task2.py"),
    ),
    Mutant(
        "options: numbers of the command line have no range",
        "utils.py",
        "        if not least <= value <= most:",
        "        if False:",
        "robust:options",
        ("eval_channels.py", "eval_shallow.py", "experiments.py"),
    ),
    Mutant(
        "inputs: pictures are scaled otherwise",
        "data/decode.py",
        "image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)",
        "image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)",
        "robust:inputs",
        ("pictures",),
    ),
    Mutant(
        "inputs: some labels of a list are lost",
        "data/lists.py",
        "labels.append(int(label))",
        "labels.append(min(int(label), 1))",
        "robust:inputs",
        ("lists",),
    ),
    Mutant(
        "inputs: an empty bands.txt passes",
        "data/lists.py",
        "    if not bands:\n",
        "    if False:\n",
        "robust:inputs",
        ("bands.txt",),
    ),
    Mutant(
        "inputs: errors of zips are not named",
        "data/source.py",
        "        except BROKEN as error:\n            if re.search(",
        "        except KeyError as error:\n            if re.search(",
        "robust:inputs",
        ("zips",),
    ),
    Mutant(
        "surroundings: a lone WORLD_SIZE starts a group",
        "engine/trainer.py",
        'if not {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():',
        'if "WORLD_SIZE" not in os.environ:',
        "robust:surroundings",
        ("environments",),
    ),
    Mutant(
        "together: nobody waits",
        "storage/locks.py",
        'lock = _wait_for(folder / ".lock", f"another process writes into {folder}", 5)',
        'lock = FileLock(folder / ".lock")',
        "robust:together",
        ("evaluations",),
    ),
    Mutant(
        "together: a training gives its lock back at once",
        "engine/trainer.py",
        "lock = hold(self.folder)\n",
        "lock = hold(self.folder)\n                lock.release()\n",
        "robust:together",
        ("two trainings",),
    ),
    Mutant(
        "honesty: the test pictures are trained on",
        "train_task1.py",
        'make_batches(cache, "train", config.image_size,',
        'make_batches(cache, "test", config.image_size,',
        "robust:honesty",
        ("other test pictures",),
    ),
    Mutant(
        "honesty: wrong answers count",
        "metrics/accuracy.py",
        "correct, total = int(counts.trace()), int(counts.sum())",
        "correct, total = int(counts.sum() - counts.trace()), int(counts.sum())",
        "robust:honesty",
        ("labels",),
    ),
    Mutant(
        "cost: frozen parameters do not count",
        "metrics/cost.py",
        "for parameter in model.parameters())",
        "for parameter in model.parameters() if parameter.requires_grad)",
        "test_measure.py::test_params",
    ),
    Mutant(
        "depth: the stricter path is that of the strict",
        "metrics/depth.py",
        "tuple(max(paths, key=len) for paths in zip(*pairs)) if pairs",
        "max(pairs, key=lambda pair: len(pair[0])) if pairs",
        "test_depth.py::test_each_depth_takes_its_own_longest_branch",
    ),
    Mutant(
        "depth: a maximum has a weight",
        "metrics/depth.py",
        '    "maximum",\n',
        "",
        "test_depth.py::test_operations_without_one",
    ),
    Mutant(
        "fill: BatchNorm's mean is left out",
        "metrics/fill_error.py",
        "ratio + (mean_b - running_mean) ** 2 / running - 1",
        "ratio - 1",
        "test_fill_error.py::test_statistics_of_two_filters_and_another_mean",
    ),
    Mutant(
        "ratio: the least number of answers is over all seeds",
        "metrics/statistics.py",
        "if b.sum() < 10 * len(b):",
        "if b.sum() < 10:",
        "test_metrics.py::test_a_ratio_needs_a_denominator",
    ),
    Mutant(
        "loss: validation smooths the labels",
        "engine/trainer.py",
        'labels, reduction="sum")',
        'labels, reduction="sum", label_smoothing=0.1)',
        "test_evaluation_page.py::test_the_five_likeliest_are_counted",
    ),
    Mutant(
        "processes: each draws the same numbers",
        "engine/step.py",
        'generator(config.seed, "batch", step, self.rank)',
        'generator(config.seed, "batch", step)',
        "test_step.py::test_processes_share_the_images_of_a_step_and_draw_each_for_itself",
    ),
    Mutant(
        "seconds: validation is training",
        "engine/trainer.py",
        "                    saved = time.monotonic()\n                began = time.perf_counter()\n",
        "                    saved = time.monotonic()\n",
        "test_damage.py::test_the_end_of_an_epoch_is_no_time_of_the_training",
    ),
    Mutant(
        "crops: areas are sides",
        "data/batches.py",
        "(area.sqrt() * aspect).clamp(max=1) * side, (area.sqrt() / aspect)",
        "(area * aspect).clamp(max=1) * side, (area / aspect)",
        "test_batches.py::test_a_strong_crop_has_the_place_area_and_aspect_that_were_drawn",
    ),
    Mutant(
        "boxes: all are at the left",
        "data/batches.py",
        "where_x[chosen] * (width - box_w), where_y",
        "0 * where_x[chosen], where_y",
        "test_batches.py::test_boxes_have_the_stated_areas_shapes_and_places",
    ),
    Mutant(
        "sizes: a smaller batch has aliases",
        "data/batches.py",
        ', mode="bilinear", antialias=True)',
        ', mode="bilinear")',
        "test_batches.py::test_a_smaller_batch_is_antialiased",
    ),
    Mutant(
        "sampling: channels after the 62nd are never drawn",
        "channelset/sampling.py",
        "for start in range(0, channels, 62):",
        "for start in range(0, min(channels, 62), 62):",
        "test_channels.py::test_each_of_many_channels_is_in_half_of_the_sets",
    ),
    Mutant(
        "ridge: it is in units of the pixels",
        "channelset/fill.py",
        "ridge * torch.diag(variance)",
        "ridge * torch.eye(channels)",
        "test_channel_stem.py::test_the_ridge_is_a_share_of_each_variance",
    ),
    Mutant(
        "conditioned: deviations are means",
        "channelset/fill.py",
        "torch.where(some, variance, 1).sqrt() * some",
        "pixels.mean(2)",
        "test_channel_stem.py::test_conditioned_fill_reads_the_mask_and_each_channels_mean_and_deviation",
    ),
    Mutant(
        "wavelength: nanometres are micrometres",
        "models/task1.py",
        "[nm / 1000 for nm in channels.wavelengths]",
        "list(channels.wavelengths)",
        "test_kernels.py::test_a_wavelength_is_described_by_sines_and_cosines",
    ),
    Mutant(
        "macs: a generated kernel counts half",
        "models/kernels.py",
        "return flop_counter_macs(self)",
        "return flop_counter_macs(self) // 2",
        "test_kernels.py::test_multiplications_that_generate_a_stem_of_64_filters_of_7x7",
    ),
    Mutant(
        "branches: their sum starts too small",
        "models/branched.py",
        "norm.weight, len(branches) ** -0.5)",
        "norm.weight, 1 / len(branches))",
        "test_shallow.py::test_the_sum_of_branches_and_the_input_of_the_head_start_at_their_scale",
    ),
    Mutant(
        "attention: queries are keys",
        "models/shallow_baselines.py",
        "attention(q, k, v)",
        "attention(k, q, v)",
        "test_shallow.py::test_attention_is_torchs",
    ),
    Mutant(
        "graph: neighbours are the farthest",
        "models/shallow_baselines.py",
        ".topk(min(9, nodes.shape[1]), dim=2)",
        ".topk(min(9, nodes.shape[1]), dim=2, largest=False)",
        "test_shallow.py::test_a_graph_layer_by_hand",
    ),
    Mutant(
        "dense: nothing is added to the input",
        "models/shallow_baselines.py",
        "return x + 0.2 * self.convs[-1]",
        "return 0.2 * self.convs[-1]",
        "test_shallow.py::test_a_dense_block_by_hand",
    ),
    Mutant(
        "mistakes: answers and true classes are swapped",
        "report/appendix_tables.py",
        "theirs[true, taken]",
        "theirs[taken, true]",
        "test_report_task2.py::test_mistakes",
    ),
    Mutant(
        "budget: MACs are FLOPs",
        "report/budgets.py",
        '2 * setting.mean({subset: entry}, "macs")',
        'setting.mean({subset: entry}, "macs")',
        "test_report_task1.py::test_budgets_by_hand",
    ),
    Mutant(
        "hours: threads do not count",
        "report/numbers.py",
        'else machine.get("threads") or 1)',
        "else 1)",
        "test_report_task1.py::test_core_hours_count_each_training_and_its_threads_once",
    ),
)


def failing(folder: Path, tests: list[str]) -> list[str]:
    """Run tests in a copy of the repository: some of pytest's, or one part of tests/robust.py.

    Returns:
        what failed: the rows of tests/robust.py, or "a test".

    Raises:
        UserError: they did not run.
    """
    fault = tests[0].removeprefix("robust:") if tests[0].startswith("robust:") else None
    if fault:
        words = ["-m", "tests.robust", fault, "--scale", "0.2"]
    else:
        words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,  # what a mutant signals must not reach this process
        timeout=1800,
    )
    failed = "did not survive" in done.stderr if fault else done.returncode == 1
    if done.returncode and not failed:
        raise UserError(f"{' '.join(tests)} did not run: {(done.stdout + done.stderr)[-500:]}")
    if fault:
        rows = csv.DictReader(done.stdout.splitlines())
        return [row["what is tried"] for row in rows if row["tries"] != row["survived"]]
    return ["a test"] if failed else []


def copy(folder: Path) -> None:
    """Copy the files that git knows, as they are now, into the folder."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in names.split("\0"):
        if name and not name.startswith(("results/", "report/figures/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names of mutants (default: all)")
    args = parser.parse_args(argv)
    chosen = [one for one in MUTANTS if not args.names or one.name.startswith(tuple(args.names))]
    unnoticed = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copy(folder)
        tests = list(dict.fromkeys(mutant.test for mutant in chosen))
        rows = [[test] for test in tests if test.startswith("robust:")]
        for together in [[test for test in tests if [test] not in rows], *rows]:
            if together and (failed := failing(folder, together)):
                raise UserError(f"without a mutant {failed[0]} of {' '.join(together)} fails: mend it first")
        for mutant in chosen:
            file = folder / mutant.file
            text = file.read_text(encoding="utf-8")
            if text.count(mutant.old) != 1:
                raise UserError(
                    f"{mutant.name}: {mutant.file} has its place {text.count(mutant.old)} times, not once"
                )
            file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
            failed = failing(folder, [mutant.test])
            noticed = all(any(row.startswith(begin) for row in failed) for begin in mutant.rows or [""])
            file.write_text(text, encoding="utf-8")
            print(f"{'noticed  ' if noticed else 'UNNOTICED'} {mutant.name}: {mutant.test}", flush=True)
            if not noticed:
                unnoticed.append(mutant.name)
    if unnoticed:
        raise UserError(f"no test notices {'; '.join(unnoticed)}")
    print(f"all {len(chosen)} are noticed")


if __name__ == "__main__":
    cli(main)
