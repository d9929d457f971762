"""Break things on purpose and count what survives: the table of faults in the report.

    python -m tools.robust                 # all, about eight minutes on two cores; writes results/robustness.csv
    python -m tools.robust bits options    # some; prints only
    python -m tools.robust --scale 0.1     # a tenth of the tries; prints only

A try survives when the outcome is right, or the fault is named in one line and the exit status is not zero. Every
fault is drawn from a seed: the same command tries the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.cache import PixelCache, open_cache
from data.decode import decode
from data.lists import parse_bands, parse_list, read_lists
from engine import trainer
from engine.records import load_records
from utils import ROOT, ArgumentParser, UserError, cli, environment, load_checkpoint, within, write_text

TINY = [
    "--arch",
    "resnet10",
    "--width",
    "0.1",
    "--image-size",
    "8",
    "--batch-size",
    "4",
    "--epochs",
    "3",
    "--eval-every",
    "2",
    "--augment",
    "light",
    "--device",
    "cpu",
    "--lr",
    "0.01",
    "--threads",
    "1",
    "--cache",
    "cache",
    "--data",
    "tiny",
]
EVALUATE = ["--data", "tiny", "--cache", "cache", "--repeats", "0", "--device", "cpu", "--results"]
BAD = ["", *f"x nan inf -1 1e400 {'9' * 40} 0x10 \u4e2d ../../x {'a' * 5000} --".split()]
HEADER = "fault,what is tried,tries,survived\n"


def make_world(folder: Path) -> None:
    """Go into the folder, with a small data set, a finished run of each task and its cache in it."""
    os.chdir(folder)
    make_pictures(folder / "tiny")
    for script, out in (("train_task1", "one"), ("train_task2", "two")):
        code, text = call(
            script, *(TINY if script == "train_task1" else _without(TINY, "--arch")), "--out", out
        )
        if code:
            raise RuntimeError(text)


def _without(words: list[str], option: str) -> list[str]:
    place = words.index(option)
    return words[:place] + words[place + 2 :]


def make_pictures(folder: Path) -> None:
    """3 classes of 4 train, 2 val and 2 test pictures of 10 x 8 px."""
    draw, lists = np.random.default_rng(0), {"train": [], "val": [], "test": []}
    for label in range(3):
        (folder / f"images/c{label}").mkdir(parents=True)
        for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
            path = f"images/c{label}/{number}.png"
            Image.fromarray(draw.integers(0, 256, (8, 10, 3), np.uint8)).save(folder / path)
            lists[split].append(f"{path} {label}\n")
    for split, lines in lists.items():
        (folder / f"{split}.txt").write_text("".join(lines))


def call(script: str, *words: str) -> tuple[int, str]:
    """Exit status and standard error of a script run in this process with these words."""
    return run(script, *words)[:2]


def run(script: str, *words: str) -> tuple[int, str, str]:
    """Exit status, standard error and standard output."""
    errors, argv, handlers = (
        io.StringIO(),
        sys.argv,
        {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)},
    )
    out = io.StringIO()
    sys.argv = [f"{script}.py", *words]
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(60)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
            runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
        return 0, errors.getvalue(), out.getvalue()
    except SystemExit as stop:
        return int(stop.code or 0), errors.getvalue(), out.getvalue()
    except BaseException as error:  # what would be a traceback
        return -1, f"{type(error).__name__}: {error}", ""
    finally:
        signal.alarm(0)
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)


class TooLong(BaseException):
    """A command that should have ended."""


def _too_long(*_):
    raise TooLong


def is_named(code: int, text: str) -> bool:
    """Whether the outcome is one line of error and a status of its own."""
    lines = [line for line in text.splitlines() if "error" in line.split(":")[0] or ": error:" in line]
    return code > 0 and len(lines) == 1 and "Traceback" not in text


def lost(*what) -> bool:
    """Tell a try that did not survive."""
    print("did not survive:", *(str(part)[-300:] for part in what), file=sys.stderr)
    return False


def start(*words: str, **variables) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / words[0]), *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
    )


# ---------------------------------------------------------------- faults: each yields (what, survived)


def kills(scale: float) -> Iterator[tuple[str, bool]]:
    """SIGKILL of a training, then the same command with --resume until it ends."""
    dice, what = random.Random(0), "training killed at a random moment, resumed: the same weights bit by bit"
    whole = load_checkpoint("one/model.pt", "task1-model")["state"]
    for number in range(max(1, round(16 * scale))):
        out, words = f"killed{number}", ["train_task1.py", *TINY, "--resume", "--out"]
        process = start(*words, out)
        time.sleep(dice.uniform(2, 8))
        process.kill()
        process.wait()
        last = start(*words, out)
        text = last.communicate()[0].decode()
        good = last.returncode == 0 and not list(Path(out).glob(".*.pt.*"))
        state = load_checkpoint(f"{out}/model.pt", "task1-model")["state"] if good else {}
        yield (
            what,
            good
            and all(torch.equal(whole[key], state.get(key, torch.empty(0))) for key in whole)
            or lost(text),
        )


def bits(scale: float) -> Iterator[tuple[str, bool]]:
    """One bit of a file flips."""
    dice = random.Random(1)
    whole = Path("one/model.pt").read_bytes()
    state = load_checkpoint("one/model.pt", "task1-model")["state"]
    for _ in range(round(300 * scale)):
        place = dice.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        Path("flipped.pt").write_bytes(changed)
        try:
            found = load_checkpoint("flipped.pt", "task1-model")["state"]
            yield (
                "checkpoint: refused, or no value changed",
                all(torch.equal(state[key], found[key]) for key in state),
            )
        except UserError:
            yield "checkpoint: refused, or no value changed", True
    cache = open_cache(read_lists("tiny"), 9, "cache", progress=False).folder
    shutil.copytree(cache, "flipped", dirs_exist_ok=True)
    for _ in range(round(300 * scale)):
        file = dice.choice(sorted(Path("flipped").iterdir()))
        good = file.read_bytes()
        changed, place = bytearray(good), dice.randrange(8 * len(good))
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            PixelCache("flipped")
            survived = False
        except UserError:
            survived = True
        file.write_bytes(good)
        yield "pixel cache: refused", survived


def weights(scale: float) -> Iterator[tuple[str, bool]]:
    """Checkpoints that were changed, for evaluation, --resume and --teacher."""
    dice, model, last = random.Random(2), torch.load("one/model.pt"), torch.load("one/last.pt")

    def changed(state: dict, kind: str) -> dict:
        state = {key: dict(value) if isinstance(value, dict) else value for key, value in state.items()}
        part = "state" if "state" in state else "model"
        key = dice.choice(
            [key for key, value in state[part].items() if value.is_floating_point() and value.numel() > 1]
        )
        tensor = state[part][key].clone(memory_format=torch.contiguous_format)
        if kind in ("nan", "inf"):
            tensor.view(-1)[dice.randrange(tensor.numel())] = float(kind)
        state[part][key] = tensor[:-1] if kind == "shape" else tensor
        if kind == "missing tensor":
            del state[part][key]
        if kind == "missing entry":
            del state[dice.choice(sorted(state.keys() - {"kind"}))]
        if kind == "other kind":
            state["kind"] = "task2-model"
        if kind == "name":
            state["config"]["name"] = "../../outside"
        return state

    kinds = ("nan", "inf", "shape", "missing tensor", "missing entry", "other kind", "name")
    for _ in range(max(1, round(4 * scale))):
        for kind in kinds:
            torch.save(changed(model, kind), "changed.pt")
            yield (
                "evaluation of a changed checkpoint: named",
                is_named(*call("eval_channels", "changed.pt", *EVALUATE, "r")),
            )
            yield (
                "--teacher of a changed checkpoint: named",
                is_named(*call("train_task1", *TINY, "--teacher", "changed.pt", "--out", "student")),
            )
            shutil.rmtree("again", ignore_errors=True)
            shutil.copytree("one", "again")
            torch.save(changed(last, kind), "again/last.pt")
            yield (
                "--resume of a changed checkpoint: named",
                is_named(*call("train_task1", *TINY, "--resume", "--out", "again")),
            )
    for script, file in (
        ("eval_channels", "two/model.pt"),
        ("eval_shallow", "one/model.pt"),
        ("eval_channels", "one/last.pt"),
        ("eval_channels", "tiny/train.txt"),
    ):
        yield (
            "a file of another task: named",
            is_named(*call(script, file, "--data", "tiny", "--cache", "cache")),
        )


def options(scale: float) -> Iterator[tuple[str, bool]]:
    """Every option of every script gets values that it cannot have; what is allowed may run."""
    real = trainer.Trainer.fit
    trainer.Trainer.fit = lambda self: sys.exit(0)  # parsed, checked and built: enough
    dice = random.Random(3)
    words = {
        "train_task1": TINY,
        "train_task2": _without(TINY, "--arch"),
        "eval_channels": ["one/model.pt", *EVALUATE, "r"],
        "eval_shallow": ["two/model.pt", *EVALUATE, "r"],
        "experiments": ["task1", "--list", "--data", "tiny"],
    }
    try:
        for script, usual in words.items():
            for option in _options_of(script):
                if scale < 0.1 and dice.random() > 4 * scale:
                    continue
                for value in BAD if scale >= 1 else dice.sample(BAD, max(1, round(len(BAD) * scale))):
                    code, text = call(script, *usual, option, value)
                    yield (
                        f"{script}.py: named in one line, or allowed",
                        code == 0 or is_named(code, text) or lost(script, option, value[:30], code, text),
                    )
    finally:
        trainer.Trainer.fit = real


def _options_of(script: str) -> list[str]:
    """Options with a value, from --help."""
    out = run(script, "--help")[2]
    lines = [line.split() for line in out.splitlines() if line.startswith("  --")]
    skipped = {"--out", "--results"}  # a folder may have any name
    return [
        line[0]
        for line in lines
        if len(line) > 1
        and not line[0].endswith(",")
        and line[0] not in skipped
        and not re.search(rf"--no-{line[0][2:]}(?![\w-])", out)
        and (line[1].isupper() or line[1].startswith("{"))
    ]


def inputs(scale: float) -> Iterator[tuple[str, bool]]:
    """Damaged and hostile pictures, lists and zips."""
    dice, draw = random.Random(4), np.random.default_rng(4)
    pictures = []
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"):
        data = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8)).save(data, kind)
        pictures.append(data.getvalue())
    array = io.BytesIO()
    np.save(array, draw.integers(0, 256, (12, 16, 3), np.uint8))
    pictures.append(array.getvalue())
    for _ in range(round(800 * scale)):
        data = bytearray(dice.choice(pictures))
        for _ in range(dice.randrange(1, 4)):
            match dice.randrange(3):
                case 0:
                    data[dice.randrange(len(data))] = dice.randrange(256)
                case 1:
                    del data[dice.randrange(len(data) // 2, len(data)) :]
                case 2:
                    data = data[:20] + dice.randbytes(dice.randrange(60)) + data[20:]
        try:
            image = decode(bytes(data), 8)
            good = image.shape == (8, 8, 3) and image.dtype == np.uint8
        except Exception:  # the cache counts and names it
            good = True
        except BaseException:
            good = False
        yield "pictures with damaged bytes: refused, or 8-bit RGB", good
    pieces = [
        "images/a.png",
        " ",
        "0",
        "1",
        "-1",
        "\t",
        "\r\n",
        "\n",
        "..",
        "/",
        "\\",
        "C:",
        "\x00",
        "\ufeff",
        "é",
        "#",
        "9" * 12,
        "nm",
        ",",
        "443",
    ]
    for _ in range(round(1500 * scale)):
        text = "".join(dice.choices(pieces, k=dice.randrange(12))).encode()
        text = text if dice.random() < 0.9 else text + dice.randbytes(3)
        try:
            split = parse_list(text, "list.txt")
            good = len(split.paths) == len(split.labels) == len(split.lines) > 0 and not any(
                path.startswith("/") or ".." in path.split("/") for path in split.paths
            )
        except UserError as error:
            good = "list.txt" in str(error)
        yield "lists of arbitrary text: named, or within the data set", good
        try:
            good = len(parse_bands(text, "bands.txt").names) > 0
        except UserError as error:
            good = "bands.txt" in str(error)
        yield "bands.txt of arbitrary text: named, or names", good
    lines = {f"{split}.txt": f"images/{split}.png 0\n".encode() for split in ("train", "val", "test")}
    for _ in range(round(300 * scale)):
        file = Path("hostile.zip")
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in {
                **lines,
                "images/train.png": pictures[1],
                "images/val.png": pictures[1],
                "images/test.png": pictures[1],
                "../outside.png": b"",
                "/etc/x": b"",
            }.items():
                if dice.random() < 0.97:
                    archive.writestr(name, data)
        data = bytearray(file.read_bytes())
        for _ in range(dice.randrange(3)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data)
        try:
            good = len(read_lists(file).splits) == 3
        except UserError:
            good = True
        except Exception as error:
            good = lost("zip", type(error).__name__, error)
        yield "zips with damaged bytes: named, or read", good and not Path("../outside.png").exists()


def surroundings(scale: float) -> Iterator[tuple[str, bool]]:
    """Environments that others have."""
    usual = ["train_task1.py", *TINY, "--epochs", "1", "--out"]
    Path("cafe").mkdir()
    make_pictures(Path("cafe/\u8766"))
    cases = {
        "WORLD_SIZE alone": ([*usual, "s1"], {"WORLD_SIZE": "4"}, 0),
        "LOCAL_RANK is no number": ([*usual, "s2"], {"LOCAL_RANK": "x"}, 2),
        "an ASCII terminal": ([*usual, "s3", "--data", "cafe/\u8766"], {"PYTHONIOENCODING": "ascii"}, 0),
        "the C locale": ([*usual, "s4"], {"LC_ALL": "C", "PYTHONUTF8": "0"}, 0),
        "no home": ([*usual, "s5"], {"HOME": "/nonexistent"}, 0),
        "a folder that cannot be written": ([*usual, "/proc/s6"], {}, 2),
        "a cache that cannot be written": ([*usual, "s7", "--cache", "/proc/c"], {}, 2),
        "a data set that is a tar": (["train_task1.py", "--data", "x.tar.gz"], {}, 2),
    }
    with open("x.tar.gz", "wb") as file:
        file.write(b"\x1f\x8b\x08\x00rest")
    for words, variables, wanted in cases.values():
        process = start(*words, **variables)
        text = process.communicate()[0].decode(errors="replace")
        good = process.returncode == wanted and "Traceback" not in text
        yield "environments and places: works, or one line", good or lost(words, text)


def together(scale: float) -> Iterator[tuple[str, bool]]:
    """Two at once."""
    for number in range(max(1, round(3 * scale))):
        both = [start("train_task1.py", *TINY, "--out", f"same{number}") for _ in range(2)]
        codes = sorted(process.wait() for process in both)
        yield (
            "two trainings in one folder: one trains, one says who is there",
            codes[0] == 0 and codes[1] in (2, 75),
        )
        results = f"both{number}"
        both = [
            start("eval_channels.py", "one/model.pt", "--name", name, *EVALUATE, results)
            for name in ("a", "b", "c")
        ]
        codes = [process.wait() for process in both]
        records = load_records(results, "task1") if not any(codes) else {}
        table = Path(results, "task1/channels.csv").read_text() if records else ""
        yield (
            "evaluations into one folder: all are in the table",
            len(records) == 3 and all(name in table for name in records),
        )


def honesty(scale: float) -> Iterator[tuple[str, bool]]:
    """Nothing of the test reaches the training."""
    shutil.copytree("tiny", "tested", dirs_exist_ok=True)
    for line in Path("tested/test.txt").read_text().splitlines():
        Image.new("RGB", (10, 8), "red").save(f"tested/{line.split()[0]}")
    code, text = call(
        "train_task1",
        *_without(_without(TINY, "--data"), "--cache"),
        "--data",
        "tested",
        "--cache",
        "cache2",
        "--out",
        "tested-run",
    )
    ours, theirs = (
        load_checkpoint(f"{out}/model.pt", "task1-model")["state"] for out in ("one", "tested-run")
    )
    yield (
        "other test pictures: the same weights",
        code == 0 and all(torch.equal(ours[key], theirs[key]) for key in ours),
    )
    dice = np.random.default_rng(5)
    make_pictures(Path("noise"))
    for split, count in (("train", 240), ("val", 60), ("test", 300)):  # pictures of noise tell no class
        lines = []
        for number in range(count):
            path = f"images/c0/{split}{number}.png"
            Image.fromarray(dice.integers(0, 256, (9, 9, 3), np.uint8)).save(Path("noise", path))
            lines.append(f"{path} {number % 3}\n")
        Path("noise", f"{split}.txt").write_text("".join(lines))
    code, text = call(
        "train_task1", *_without(TINY, "--data"), "--data", "noise", "--epochs", "8", "--out", "noise-run"
    )
    code += call("eval_channels", "noise-run/model.pt", *EVALUATE, "noise-results", "--data", "noise")[0]
    rows = [
        row for record in load_records("noise-results", "task1").values() for row in record["splits"]["test"]
    ]
    at_chance = rows and all(abs(row["top1_pct"] - 100 / 3) < 11 for row in rows)  # 4 standard errors
    yield "labels that nothing tells: at chance on every set", code == 0 and bool(at_chance)


FAULTS = {
    "kills": kills,
    "bits": bits,
    "weights": weights,
    "options": options,
    "inputs": inputs,
    "surroundings": surroundings,
    "together": together,
    "honesty": honesty,
}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.robust", description=__doc__)
    parser.add_argument("faults", nargs="*", choices=tuple(FAULTS), help="some of them (default: all)")
    parser.add_argument("--scale", type=within(0.0, 100.0, float), default=1.0, help="share of the tries")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Pillow's of damaged pictures
    counts, where = {}, os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        try:
            make_world(Path(folder))
            for name in args.faults or FAULTS:
                began = time.perf_counter()
                for what, survived in FAULTS[name](args.scale):
                    tries = counts.setdefault((name, what), [0, 0])
                    tries[0] += 1
                    tries[1] += bool(survived)
                print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        finally:
            os.chdir(where)
    lines = [f'{name},"{what}",{tried},{survived}\n' for (name, what), (tried, survived) in counts.items()]
    print(HEADER + "".join(lines), end="")
    if not args.faults and args.scale == 1:
        told = environment(torch.device("cpu"))
        note = f"# commit {told['commit']}, {told['hardware']}, Python {told['python']}, PyTorch {told['torch']}\n"
        write_text(ROOT / "results" / "robustness.csv", note + HEADER + "".join(lines))
    lost = sum(tried - survived for tried, survived in counts.values())
    if lost:
        raise UserError(f"{lost} tries did not survive")


if __name__ == "__main__":
    cli(main)
