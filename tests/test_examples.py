"""Each example runs as its header says, and says what it should."""

import importlib
import os
import re
import sys
import zipfile
from pathlib import Path

from pytest import importorskip, mark, skip

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


@mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_import_the_package_alone(name):
    text = (ROOT / "examples" / name).read_text()
    assert len(text.splitlines()) <= 70
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert imported <= {
        *sys.stdlib_module_names,
        "torch",
        "torchvision",
        "channelset",
        "checkout",
        "thirteen_bands",
        *NEEDS.get(name, ()),
    }


@mark.parametrize("name", NEEDS)
def test_an_example_with_a_package_of_others_runs_to_its_assertion(name, tmp_path, example):
    assert re.search(r"^assert ", (ROOT / "examples" / name).read_text(), re.MULTILINE)
    if name == "export_onnx.py":
        skip("tests/test_onnx.py runs it")
    for package in NEEDS[name]:
        importorskip(package)
    assert example(name) and not list(tmp_path.iterdir())


def test_adapt_and_fold(example):
    shown = example("adapt_and_fold.py")
    differences = re.findall(r": (?:largest difference )?([0-9.e+-]+)$", shown, re.MULTILINE)
    assert len(differences) >= 2 and max(map(float, differences[:2])) < 1e-4
    assert "folded to Conv2d(2, 64" in shown


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


def test_the_package_installs_by_itself(tmp_path, forked):
    """What `pip install .` copies, without the time that pip takes."""
    importorskip("setuptools")
    # away from here: setuptools writes a build folder beside the sources
    for name in ("pyproject.toml", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "channelset").symlink_to(ROOT / "channelset")

    def build() -> str:
        from setuptools import build_meta

        os.chdir(tmp_path)
        return build_meta.build_wheel(str(tmp_path))

    there = tmp_path / "there"
    zipfile.ZipFile(tmp_path / forked(build)).extractall(there)
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

    def names() -> list[str]:
        for module in [name for name in sys.modules if name.split(".")[0] == "channelset"]:
            del sys.modules[module]
        sys.path.insert(0, str(there))
        package = importlib.import_module("channelset")
        assert Path(package.__file__).is_relative_to(there)
        return package.__all__

    assert "adapt_first_conv" in forked(names)
