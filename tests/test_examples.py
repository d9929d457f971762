"""Each example runs as its header says, and says what it should."""

import re
import subprocess
import sys

import pytest

import channelset
from utils import ROOT

NEEDS = {  # packages beside torch and torchvision
    "export_onnx.py": ("onnxruntime", "onnxscript"),
    "with_hugging_face.py": ("transformers",),
    "with_lightning.py": ("lightning",),
    "with_monai.py": ("monai",),
    "with_smp.py": ("segmentation_models_pytorch",),
    "with_timm.py": ("timm",),
    "with_ultralytics.py": ("ultralytics",),
}
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_import_the_package_alone(name):
    text = (ROOT / "examples" / name).read_text()
    assert len(text.splitlines()) <= 70
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert imported <= {
        *sys.stdlib_module_names,
        "torch",
        "torchvision",
        "channelset",
        "thirteen_bands",
        *NEEDS.get(name, ()),
    }


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_with_a_package_of_others_runs_to_its_assertion(name, tmp_path, example):
    for package in NEEDS[name]:
        pytest.importorskip(package)
    assert re.search(r"^assert ", (ROOT / "examples" / name).read_text(), re.MULTILINE)
    assert example(name) and not list(tmp_path.iterdir())


def test_adapt_and_fold(tmp_path):
    """This example runs in a process of its own, as its header says; the others save the time."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "adapt_and_fold.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    differences = [
        float(value)
        for value in re.findall(r": (?:largest difference )?([0-9.e+-]+)$", done.stdout, re.MULTILINE)
    ]
    assert len(differences) >= 2 and max(differences[:2]) < 1e-4 and "folded to Conv2d(2, 64" in done.stdout


def test_robust_without_training(example):
    lines = [
        [float(value) for value in re.findall(r"([0-9.]+) %", line)]
        for line in example("robust_without_training.py").splitlines()
    ]
    zeros, filled = lines[-1]
    assert filled > zeros + 20 and lines[0][0] > 90


def test_thirteen_bands(example):
    shares = [float(line.split()[-2]) for line in example("thirteen_bands.py").splitlines()]
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
    there = tmp_path / "there"
    assert (there / "channelset" / "py.typed").is_file() and not (there / "tests").exists()
    (metadata,) = there.glob("channelset-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    for line in (
        "License-Expression: MIT",
        "License-File: LICENSE",
        "Requires-Dist: torch>=2.6",
        "Typing :: Typed",
    ):
        assert line in text
    assert "# channelset" in text and f"Version: {channelset.__version__}" in text
    code = "import channelset, sys; assert 'there' in channelset.__file__; print(*sorted(channelset.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "there", capture_output=True, text=True
    )
    assert "adapt_first_conv" in done.stdout, done.stderr


def test_types_are_checked_strictly():
    pytest.importorskip("mypy")
    done = subprocess.run(  # the cache holds what mypy knows of PyTorch, most of its time
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", ".mypy_cache/strict", "channelset"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
