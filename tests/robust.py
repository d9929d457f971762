"""Break things on purpose and count what survives: the table of faults in the report.

    python -m tests.robust                 # all, about ten minutes on two cores; writes results/robustness.csv
    python -m tests.robust bits options    # some; prints only
    python -m tests.robust --scale 0.1     # a tenth of the tries; prints only

A try survives when the outcome is right, or the fault is named in one line and the exit status is not zero. What is
right is known without the code under test. Faults are drawn from a seed: the same command tries the same, up to the
moments at which processes meet. Each row fails under a change of the code that tests/mutants.py lists.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from PIL import Image, ImageOps

from data.cache import PixelCache, open_cache
from data.decode import decode
from data.lists import parse_bands, parse_list, read_lists
from engine import trainer
from engine.records import load_records, note_checksums
from storage.checkpoint import load_checkpoint
from storage.files import write_text
from tests.helpers import as_npy, command_line, same_weights, write_set
from utils import ROOT, ArgumentParser, UserError, cli, environment, within

TINY = command_line(
    "--arch resnet10 --width 0.1 --image-size 8 --batch-size 4 --epochs 3 --eval-every 2 --augment light "
    "--device cpu --lr 0.01 --threads 1 --cache cache --data tiny"
)
EVALUATE = command_line("--data tiny --cache cache --repeats 0 --device cpu --results")
LONG, NINES = "a" * 5000, "9" * 40
BAD = ["", "x", "nan", "inf", "-1", "1e400", NINES, "0x10", "\u4e2d", "../../x", LONG, "--"]
TEXTS = {"x", "nan", "inf", "1e400", NINES, "0x10", "\u4e2d"}  # what a name may be
ALLOWED = {  # option -> the values above that it can have; all others of any option must be named
    "--name": TEXTS,
    "--label": TEXTS | {"../../x"},
    "--minutes": {"inf", "1e400", NINES},
    "--options": {""},
    "--eval-options": {""},
}
FOLDERS = ("--cache", "--out", "--results")  # may have any name
Tries = Iterator[tuple[str, bool]]  # what is tried, and whether it survived
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
    draw = np.random.default_rng(0)

    def save(path, *_):
        Image.fromarray(draw.integers(0, 256, (8, 10, 3), np.uint8)).save(path)

    write_set(folder, "images/c{label}/{number}.png", save)


def call(script: str, *words: str) -> tuple[int, str]:
    """Exit status and standard error of a script run in this process with these words."""
    return run(script, *words)[:2]


def run(script: str, *words: str) -> tuple[int, str, str]:
    """Exit status, standard error and standard output."""
    errors, argv, handlers = (
        io.StringIO(),
        sys.argv,
        {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
    )
    out = io.StringIO()
    sys.argv = [f"{script}.py", *words]
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(300)
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


def survives(attempt, *what, named: str = "") -> bool:
    """Call a function that tells whether a try survived. An error that names the fault is right as well."""
    try:
        return attempt() or lost(*what)
    except UserError as error:
        return named in str(error) or lost(*what, error)
    except Exception as error:
        return lost(*what, type(error).__name__, error)


def flipped(data: bytes, dice: random.Random) -> bytes:
    """Flip one bit."""
    changed, place = bytearray(data), dice.randrange(8 * len(data))
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def start(*words: str, **variables) -> subprocess.Popen:
    script = words[0] if words[0] == "-c" else str(ROOT / words[0])
    return subprocess.Popen(
        [sys.executable, script, *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
    )


# ---------------------------------------------------------------- faults: each yields (what, survived)


# saves as often as it can; waits until the file "go" is there, with everything imported
SCRIPT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import {module}, utils
from engine import trainer
trainer.SAVE_EVERY = {every}
Path({ready!r}).touch()
while not Path("go").exists():
    time.sleep(0.001)
sys.argv = [{module!r} + ".py"] + {words!r}
utils.cli({module}.main)
"""


def begin(module: str, words: list[str], ready: str, every: float = 20) -> subprocess.Popen:
    """Start a process that imports everything, then writes the file `ready`.

    It runs the script's main() as soon as the file "go" exists. A training saves after `every` seconds.
    """
    code = SCRIPT.format(root=str(ROOT), module=module, every=every, ready=ready, words=words)
    return start("-c", code)


def fingerprint(state: dict) -> str:
    """sha256 of everything that a resumed training depends on; of the times, nothing."""
    text = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, torch.Tensor):
            text.update(value.contiguous().view(-1).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                if key not in ("seconds", "train_s", "environment", "config"):
                    text.update(str(key).encode())
                    add(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:  # sums of losses have another last digit when they are taken in other parts
            text.update((f"{value:.9g}" if isinstance(value, float) else repr(value)).encode())

    add(state)
    return text.hexdigest()


def kills(scale: float) -> Tries:
    """SIGKILL of a training in its steps, then the same command with --resume, until there were enough kills. What is
    saved at any step must be what an undisturbed training has at that step.
    """
    what = "training killed between two steps or in one, resumed: the same state bit by bit at that step"
    dice, wanted, epochs = random.Random(0), max(1, round(24 * scale)), 250
    words = command_line(*TINY, "--arch plain6-k5 --dropout 0.4 --eval-every 100 --epochs", epochs)
    right: dict[int, str] = {}
    save, every = trainer.Trainer._save, trainer.SAVE_EVERY
    trainer.SAVE_EVERY = -1  # every step
    trainer.Trainer._save = lambda self: right.update({self.step: fingerprint(self._state())})
    try:
        code, text = call("train_task2", *words, "--out", "whole")
    finally:
        trainer.Trainer._save, trainer.SAVE_EVERY = save, every
    if code or len(right) != 3 * epochs:
        raise RuntimeError(f"{len(right)} steps {text}")
    Path("go").touch()
    hits = rounds = 0
    while hits < wanted:
        rounds += 1
        if rounds > 3 * wanted + 10:
            raise RuntimeError(f"{hits} of {rounds} kills hit a training")
        last = Path(f"killed{rounds // 12}/last.pt")
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = begin("train_task2", [*words, "--resume", "--out", str(last.parent)], "ready", every=0.02)
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns > before):
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.5))
        process.kill()
        text = process.communicate()[0].decode(errors="replace")
        if process.returncode != -signal.SIGKILL or (last.parent / "model.pt").exists():
            # it could not go on from what the last kill left
            if process.returncode != -signal.SIGKILL and process.returncode:
                yield what, lost(text)
                hits += 1
            shutil.rmtree(last.parent)  # it came to its end: another begins
            continue
        hits += 1
        try:
            state = torch.load(last, weights_only=True)
            good = right[state["step"]] == fingerprint(state)
        except Exception as error:  # half a file
            good, state = lost(error), {}
        yield what, good or lost(state.get("step"), text)
    for number in range(max(1, round(3 * scale))):  # before anything is saved
        out = f"early{number}"
        process = start("train_task1.py", *TINY, "--out", out)
        time.sleep(dice.uniform(0.5, 4))
        process.kill()
        process.communicate()
        code, text = call("train_task1", *TINY, "--resume", "--out", out)
        state = load_checkpoint(f"{out}/model.pt", "task1-model")["state"] if not code else {}
        whole = load_checkpoint("one/model.pt", "task1-model")["state"]
        good = state.keys() == whole.keys() and all(torch.equal(whole[key], state[key]) for key in whole)
        left = list(Path(out).glob(".*.pt.*"))
        yield (
            "process killed in its first seconds, resumed: the same weights, nothing left over",
            (good and not left or lost(code, text, left)),
        )


def bits(scale: float) -> Tries:
    """One bit of a file flips."""
    dice = random.Random(1)
    whole = Path("one/model.pt").read_bytes()
    state = load_checkpoint("one/model.pt", "task1-model")["state"]

    def loads_the_same() -> bool:
        found = load_checkpoint("flipped.pt", "task1-model")["state"]
        return all(torch.equal(state[key], found[key]) for key in state)

    for _ in range(round(300 * scale)):
        Path("flipped.pt").write_bytes(flipped(whole, dice))
        yield "checkpoint: refused, or no value changed", survives(loads_the_same)
    cache = open_cache(read_lists("tiny"), 9, "cache", progress=False).folder
    shutil.copytree(cache, "flipped", dirs_exist_ok=True)
    for _ in range(round(300 * scale)):
        file = dice.choice(sorted(Path("flipped").iterdir()))
        good = file.read_bytes()
        file.write_bytes(flipped(good, dice))
        survived = survives(lambda: PixelCache("flipped") is None)
        file.write_bytes(good)
        yield "pixel cache: refused", survived


def weights(scale: float) -> Tries:
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


def options(scale: float) -> Tries:
    """Every option of every script gets values that it can have, which run, and values that it cannot have."""
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
                    allowed = value in ALLOWED.get(option, ())
                    yield (
                        f"{script}.py: allowed values accepted, all others named in one line",
                        (code == 0 if allowed else is_named(code, text))
                        or lost(script, option, value[:30], code, text),
                    )
    finally:
        trainer.Trainer.fit = real


def _options_of(script: str) -> list[str]:
    """Options with a value, from --help."""
    out = run(script, "--help")[2]
    lines = [line.split() for line in out.splitlines() if line.startswith("  --")]
    return [
        line[0]
        for line in lines
        if len(line) > 1
        and not line[0].endswith(",")
        and line[0] not in FOLDERS
        and not re.search(rf"--no-{line[0][2:]}(?![\w-])", out)
        and (line[1].isupper() or line[1].startswith("{"))
    ]


def inputs(scale: float) -> Tries:
    """Damaged and hostile pictures, lists and zips."""
    dice, draw = random.Random(4), np.random.default_rng(4)
    pictures = []
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"):
        data = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8)).save(data, kind)
        pictures.append(data.getvalue())
    pictures.append(as_npy(draw.integers(0, 256, (12, 16, 3), np.uint8)))
    for _ in range(round(800 * scale)):
        data = bytearray(dice.choice(pictures))
        changes = dice.randrange(4)
        for _ in range(changes):
            match dice.randrange(3):
                case 0:
                    data[dice.randrange(len(data))] = dice.randrange(256)
                case 1:
                    del data[dice.randrange(len(data) // 2, len(data)) :]
                case 2:
                    data = data[:20] + dice.randbytes(dice.randrange(60)) + data[20:]
        try:
            image = decode(bytes(data), 8)
            good = image.dtype == np.uint8 and same_pixels(image, bytes(data))
        except Exception as error:  # the cache counts and names it
            good = changes > 0 or lost(type(error).__name__, error)
        yield "pictures, damaged or whole: refused, or the same pixels as Pillow's", good
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

        def reads_line_by_line(text=text) -> bool:
            split = parse_list(text, "list.txt")
            words = [line.rsplit(None, 1) for line in re.split("\r\n|\r|\n", text.decode("utf-8-sig"))]
            words = [word for word in words if word]
            parts = [
                [part for part in re.split(r"[/\\]", word[0].strip()) if part not in ("", ".")]
                for word in words
            ]
            return (
                split.labels.tolist() == [int(word[1]) for word in words]
                and [path.split("/") for path in split.paths] == parts
                and not any(".." in part for part in parts)
            )

        yield (
            "lists of arbitrary text: named, or read line by line within the data set",
            survives(reads_line_by_line, text, named="list.txt"),
        )
        yield (
            "bands.txt of arbitrary text: named, or names",
            survives(lambda: len(parse_bands(text, "bands.txt").names) > 0, text, named="bands.txt"),
        )
    lines = {f"{split}.txt": f"images/{split}.png 0\n".encode() for split in ("train", "val", "test")}
    lines["train.txt"] += b"images/more.png 1\n"
    for _ in range(round(300 * scale)):
        file = Path("hostile.zip")
        with zipfile.ZipFile(file, "w") as archive:
            drawn = {f"images/{name}.png": pictures[1] for name in ("train", "more", "val", "test")}
            for name, data in {**lines, **drawn, "../outside.png": b"", "/etc/x": b""}.items():
                if dice.random() < 0.97:
                    archive.writestr(name, data)
        data = bytearray(file.read_bytes())
        for _ in range(dice.randrange(3)):
            start = dice.choice([0, len(data) - 300])  # anywhere, or in the zip's directory at its end
            data[dice.randrange(start, len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data)
        good = survives(lambda: len(read_lists(file).splits) == 3, "zip")
        yield "zips with damaged bytes: named, or read", good and not Path("../outside.png").exists()


def same_pixels(image: np.ndarray, data: bytes) -> bool:
    """Whether decoded pixels (s, s, 3) are those that Pillow or numpy read and scale on their own."""
    size = image.shape[:2]
    if data.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(data))
        array = array if array.shape[-1] == 3 else array.transpose(1, 2, 0)
        whole = ImageOps.fit(Image.fromarray(array.astype(np.uint8)), size, Image.Resampling.BICUBIC)
        return np.abs(np.asarray(whole).astype(int) - image).max() <= 1  # arrays are scaled as numbers
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data or picture.mode.startswith("I"):
            return True  # converted by rules of this project
        whole = ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.BICUBIC)
    return np.array_equal(np.asarray(whole), image)


def surroundings(scale: float) -> Tries:
    """Environments that others have."""
    usual = ["train_task1.py", *TINY, "--epochs", "1", "--out"]
    Path("cafe").mkdir()
    make_pictures(Path("cafe/\u8766"))
    cases = {
        "WORLD_SIZE alone": ([*usual, "s1"], {"WORLD_SIZE": "4"}, 0),
        "LOCAL_RANK is no number": ([*usual, "s2"], {"LOCAL_RANK": "x"}, 0),
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


# The first process has read the records, and gives the others up to five seconds to write theirs, before it writes the
# table. Without a lock they do so, and the table lacks their records.
WRITER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from engine import records
record, make_table = json.loads(Path({record!r}).read_text()), records.make_table
del record["checksums"], record["splits"]["test"]
def wait_for(*files, seconds):
    end = time.monotonic() + seconds
    while not all(Path({results!r} + file).exists() for file in files) and time.monotonic() < end:
        time.sleep(0.001)
def make_late(*args):
    Path({results!r} + "-read").touch()
    wait_for("-ready1", "-ready2", seconds=5)
    return make_table(*args)
first = {ready!r} == "ready0"
Path({ready!r}).touch()
while not Path("go").exists():
    time.sleep(0.001)
if first:
    records.make_table = make_late
else:
    wait_for("-read", seconds=60)
for number in range(1 if first else 3):
    record["model"] = f"writer{{number}}-" + {ready!r}
    records.write_record(records.RunFiles(Path({results!r}), "task1", records.run_name(record)), record)
Path({results!r} + "-" + {ready!r}).touch()
"""


def together(scale: float) -> Tries:
    """Several at once, which have imported everything and wait for one file to begin."""
    call("eval_channels", "one/model.pt", *EVALUATE, "r")
    record = str(next(Path("r/task1/runs").glob("*.json")))
    for number in range(max(1, round(4 * scale))):
        out, results = f"same{number}", f"both{number}"
        long = [*TINY, "--epochs", "60", "--eval-every", "60"]
        codes = at_once([lambda ready: begin("train_task1", [*long, "--out", out], ready)] * 2)
        yield (
            "two trainings in one folder: one trains, one says who is there",
            codes == [0, 75] or lost(codes),
        )
        writer = {"root": str(ROOT), "record": record, "results": results}
        codes = at_once([lambda ready: start("-c", WRITER.format(**writer, ready=ready))] * 3)
        names = {path.stem for path in Path(results, "task1/runs").glob("*.json")}
        table = Path(results, "task1/channels.csv").read_text() if names else ""
        missing = [name for name in names if name not in table]
        yield (
            "evaluations into one folder: all are in the table",
            codes == [0, 0, 0] and len(names) == 7 and not missing or lost(codes, missing),
        )


def at_once(starts: list) -> list[int]:
    """Exit statuses, sorted, of processes that begin at the same moment; each of `starts` gets the file to touch."""
    Path("go").unlink(missing_ok=True)
    files = [f"ready{number}" for number in range(len(starts))]
    for file in files:
        Path(file).unlink(missing_ok=True)
    processes = [one(file) for one, file in zip(starts, files)]
    deadline = time.monotonic() + 300
    while not all(Path(file).exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.01)
    Path("go").touch()
    texts = [process.communicate(timeout=300)[0] for process in processes]
    codes = sorted(process.returncode for process in processes)
    if codes[0] not in (0, 2, 75):
        print(texts[0].decode(errors="replace")[-500:], file=sys.stderr)
    return codes


def honesty(scale: float) -> Tries:
    """Nothing of the test reaches the training."""
    shutil.copytree("tiny", "tested", dirs_exist_ok=True)
    for line in Path("tested/test.txt").read_text().splitlines():
        Image.new("RGB", (10, 8), "red").save(f"tested/{line.split()[0]}")
    other = command_line("--data tested --cache cache2 --out tested-run")
    code, text = call("train_task1", *_without(_without(TINY, "--data"), "--cache"), *other)
    yield (
        "other test pictures: the same weights",
        code == 0 and same_weights("one/model.pt", "tested-run/model.pt"),
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
    other = command_line("--data noise --epochs 8 --out noise-run")
    code, text = call("train_task1", *_without(TINY, "--data"), *other)
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
    parser = ArgumentParser(prog="python -m tests.robust", description=__doc__)
    parser.add_argument("faults", nargs="*", help=f"some of {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--scale", type=within(0.0, 100.0, float), default=1.0, help="share of the tries")
    args = parser.parse_args(argv)
    if unknown := set(args.faults) - set(FAULTS):  # choices=... would refuse the empty list of Python 3.11
        parser.error(f"there is no fault {min(unknown)}; choose from {', '.join(FAULTS)}")
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
        note_checksums(ROOT / "results" / "robustness.csv")
    lost = sum(tried - survived for tried, survived in counts.values())
    if lost:
        raise UserError(f"{lost} tries did not survive")


if __name__ == "__main__":
    cli(main)
