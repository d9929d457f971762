"""Each example runs as its header says, and says what it should."""

import re
import subprocess
import sys

import pytest

from utils import ROOT

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(name: str, *words: str, cwd=None) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *words], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_import_the_package_alone(name):
    text = (ROOT / "examples" / name).read_text()
    assert len(text.splitlines()) < 60
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert imported <= {
        "argparse",
        "copy",
        "sys",
        "pathlib",
        "torch",
        "torchvision",
        "channelset",
        "thirteen_bands",
    }


def test_adapt_and_fold(tmp_path):
    out = run("adapt_and_fold.py", cwd=tmp_path)
    differences = [
        float(value) for value in re.findall(r": (?:largest difference )?([0-9.e+-]+)$", out, re.MULTILINE)
    ]
    assert len(differences) >= 2 and max(differences[:2]) < 1e-4 and "folded to Conv2d(2, 64" in out


def test_robust_without_training():
    lines = [
        [float(value) for value in re.findall(r"([0-9.]+) %", line)]
        for line in run("robust_without_training.py").splitlines()
    ]
    zeros, filled = lines[-1]
    assert filled > zeros + 20 and lines[0][0] > 90


def test_thirteen_bands():
    shares = [float(line.split()[-2]) for line in run("thirteen_bands.py").splitlines()]
    assert len(shares) == 4 and shares[0] > 90 and shares[0] > shares[1] > shares[3] > 100 / 6 + 10


def test_the_package_installs_by_itself(tmp_path):
    pytest.importorskip("setuptools")
    # away from here: setuptools writes a build folder beside the sources
    for name in ("pyproject.toml", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "channelset").symlink_to(ROOT / "channelset")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
            "--target",
            "there",
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    code = "import channelset, sys; assert 'there' in channelset.__file__; print(*sorted(channelset.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "there", capture_output=True, text=True
    )
    assert "adapt_first_conv" in done.stdout, done.stderr
