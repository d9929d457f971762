"""What the repository promises about itself."""

import ast
import functools
import re
import subprocess
import types
from pathlib import Path

import pytest
from torch import nn

import utils
from config import CONFIGS, differing, identity, resolve_run
from engine.records import make_table
from grids import GRIDS, channels_of, task_of
from metrics.cost import count_params
from metrics.depth import MAX_DEPTH, count_depth
from report import build
from tools.latency import rebuild
from utils import ROOT

RESULTS = ROOT / "results"


def test_tables_are_what_the_results_give(stdout):
    build.main(["--check"])
    assert "up to date" in stdout()


def test_ci_runs_the_readmes_test_command_after_the_checks_of_form_and_types():
    assert "make test" in (ROOT / "README.md").read_text()
    lines = (ROOT / ".ci/run").read_text().splitlines()
    checks = [".venv/bin/ruff format --check .", ".venv/bin/ruff check .", ".venv/bin/mypy", "make test"]
    assert [line for line in lines if line in checks] == checks and lines[-1] == checks[-1]
    assert "set -euo pipefail" in lines  # the first that fails ends it
    assert "- run: .ci/run  # ends with `make test`\n" in (ROOT / ".github/workflows/tests.yml").read_text()
    locked = re.search(r"^ruff==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert f"rev: v{locked[1]}\n" in (ROOT / ".pre-commit-config.yaml").read_text()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_pictures_weights_or_absolute_paths_are_tracked():
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split()
    wrong = r"\.(jpe?g|tiff?|npz|npy|zip|pt|pth|raw)$"
    published = r"results/weights/[\w-]+/model\.pt"  # tests/test_weights.py looks into them
    assert not [
        name
        for name in tracked
        if re.search(wrong, name, re.IGNORECASE) and not re.fullmatch(published, name)
    ]
    for name in tracked:
        if name.endswith((".py", ".md", ".json", ".csv", ".txt")):
            found = re.search(
                r"(?<![\w.~])/(home|root|work|tmp|Users)/\w+", (ROOT / name).read_text(encoding="utf-8")
            )
            assert not found, f"{name}: absolute path {found[0]}"


def test_results_have_their_provenance(published):
    """Each run has its configuration, seed, commit, hardware, data hash and predictions beside its
    metrics.
    """
    for task in CONFIGS:
        records = published(task)
        assert records
        for name, record in records.items():
            channels = record.get("channels", ["R", "G", "B"])
            assert record["task"] == task and {"test"} <= set(record["splits"]) <= {"val", "test"}
            assert len(record["splits"]) == 2 or len(channels) > 3  # other channels: the test images alone
            for part in record.get("folds", [record]):
                assert re.fullmatch(r"[0-9a-f]{64}", part["dataset_digest"])
                assert re.fullmatch(r"[0-9a-f]{40}", part["trained_with"]["commit"])
                assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", part["evaluated_with"]["commit"])
                assert part["trained_with"]["hardware"] and part["evaluated_with"]["hardware"]
            assert (
                record["config"]["seed"] == record["seed"] and record["config"]["preset"] == record["preset"]
            )
            assert (RESULTS / task / "predictions" / f"{name}-test.csv.gz").is_file()
            if task == "task2":
                for line in (line for lines in record["splits"].values() for line in lines):
                    assert (record["strict_depth"], record["train_depth"]) == (
                        line["strict_depth"],
                        line["train_depth"],
                    )
        names = {f"{name}-test.csv.gz" for name in records}
        assert {path.name for path in (RESULTS / task / "predictions").iterdir()} == names


def test_the_queue_repeats_the_published_runs(published):
    """Each record is of a run that a grid has, with the options that the grid still means, evaluated as it
    says.
    """
    for task, cls in CONFIGS.items():
        queued = [(grid, run) for grid, runs in GRIDS.items() if task_of(grid) == task for run in runs]

        @functools.cache
        def resolved(place, preset, channels, seed, task=task, queued=queued):
            return resolve_run(task, queued[place][1], preset, channels, seed=seed)

        for name, record in published(task).items():
            found, channels = [], tuple(record.get("channels", "RGB"))
            trained = identity(cls.of(record["config"]))
            for place, (grid, run) in enumerate(queued):
                if run.model != record["model"] or run.test != record["test"]:
                    continue
                if channels_of(grid) != channels and grid != "task1-extra":
                    continue
                config = resolved(place, record["preset"], channels, record["seed"])
                if identity(config) == trained:
                    amp = {"amp": record["config"]["amp"]}  # it follows from the processor
                    assert differing({**vars(config), **amp}, record["config"], cls) == {}, name
                    found.append(run)
            assert found, name
            assert record["section"] in {run.section for run in found}, name
            assert record["label"] in {run.label for run in found}, name


def test_published_networks_have_the_depth_and_size_of_the_results(published, monkeypatch):
    for name in [name for name in vars(nn.init) if name.endswith("_") and name[0] != "_"]:
        monkeypatch.setattr(nn.init, name, lambda values, *_, **__: values)  # depth and size need no values
    table = make_table(published("task2"), "task2")
    assert (table["strict_depth"][table["section"].isin(("ours", "distilled"))] <= MAX_DEPTH).all()
    table = table[table["test_image_size"].isna()]  # on images of another size it is the same network
    rows = table.drop_duplicates(["model", "image_size", "strict_depth", "params", "macs"])
    for row in rows.itertuples():
        net = rebuild(published("task2")[row.run], row.run).eval()
        found = count_depth(net, (3, row.image_size, row.image_size)).strict, count_params(net)
        assert found == (row.strict_depth, row.params), row.run
    assert len(rows) > 40


# ---------------------------------------------------------------- the house

LAYERS = (  # from the top; a module imports from its own layer or from those below
    {"train_task1", "train_task2", "eval_channels", "eval_shallow", "predict", "experiments", "tools"},
    {"engine", "report"},
    {"config", "models"},
    {"data", "metrics"},
    {"storage"},
    {"utils", "grids", "channelset"},
)
SCRIPTS = LAYERS[0] - {"tools"}


@functools.cache
def sources() -> dict[str, Path]:
    """Name of a module -> its file, of the code without tests."""
    folders = [ROOT / name for names in LAYERS for name in names]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """List imports and calculations, which the tests below look at."""
    kinds = ast.Import | ast.ImportFrom | ast.BinOp
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]


@functools.cache
def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports, with the submodules that it names."""
    found, known = set(), sources().keys()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):  # relative imports are all within one folder
            module = f"{path.parent.name}.{node.module}" if node.level else node.module
            within = {f"{module}.{alias.name}" for alias in node.names} & known
            found |= within or {module}
    return found & known


def test_json_of_a_file_has_one_reader():
    """Only storage.files.parse_json knows every error of json.loads; the package channelset cannot import it."""
    for name, file in sources().items():
        text = file.read_text(encoding="utf-8")
        if name != "storage.files" and not name.startswith("channelset"):
            assert "RecursionError" not in text, name
            assert re.findall(r"json\.loads?\((?!json\.dumps)", text) == [], name


def test_imports_point_downwards_and_make_no_circle():
    graph = {name: imports(path) - {name} for name, path in sources().items()}
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    for name, needed in graph.items():
        for other in needed:
            assert level[name.split(".")[0]] <= level[other.split(".")[0]], (
                f"{name} imports {other}, which is above it"
            )
            assert other not in SCRIPTS, f"{name} imports the script {other}"
    left = dict(graph)
    while left:  # take away what imports nothing that is left
        free = [name for name, needed in left.items() if not needed & left.keys()]
        assert free, f"a circle among {', '.join(sorted(left))}"
        for name in free:
            del left[name]


def test_tests_share_through_conftest_alone():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not [name for name in named if name.split(".")[0].startswith("test_")], path.name


def test_only_the_report_and_a_grid_that_is_asked_write_the_documents():
    assert [name for name, path in sources().items() if "report.build" in imports(path)] == ["experiments"]


def is_condition(node: ast.expr) -> bool:
    """Whether an expression is written as a condition."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("bool", "any", "all", "isinstance")
    return isinstance(node, ast.Compare | ast.BoolOp) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    )


def times_a_condition(nodes) -> list[str]:
    """Texts and lists that are multiplied by a condition, and anything that is multiplied by `not` or `bool`."""
    found = []
    for node in nodes:
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
            continue
        for value, factor in ((node.left, node.right), (node.right, node.left)):
            text = isinstance(value, ast.List | ast.ListComp | ast.Tuple | ast.JoinedStr) or (
                isinstance(value, ast.Constant) and isinstance(value.value, str)
            )
            if is_condition(factor) and (text or not isinstance(factor, ast.Compare)):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_text_or_list_is_multiplied_by_a_condition():
    """An `if` says it."""
    wrong = ast.parse("'s' * (n > 1) + [a] * (b is c) + d * (not e) + bool(f) * g")
    assert len(times_a_condition(ast.walk(wrong))) == 4
    assert times_a_condition(ast.walk(ast.parse("'s' * n + [0] * 3 + mask * (x > 0)"))) == []
    for path in [*sources().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        assert times_a_condition(nodes(path)) == [], path.relative_to(ROOT)


def test_few_scripts_stand_at_the_top():
    assert len(list(ROOT.glob("*.py"))) <= 8


@pytest.mark.parametrize("inner", ["", "project/"])
def test_the_commit_names_changes_of_the_code_that_runs_alone(tmp_path, monkeypatch, inner):
    """The code may lie in a folder of a larger repository, which may not hold it yet."""

    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)

    def commit():
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "c", "--allow-empty")

    root = tmp_path / inner
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    monkeypatch.setattr(utils, "ROOT", root)
    running = types.ModuleType("running")
    running.__file__ = str(tmp_path / "link/running.py")
    monkeypatch.setattr(utils, "sys", types.SimpleNamespace(modules={"running": running, "re": re}))
    assert utils.git_commit() == "unknown"
    root.mkdir(exist_ok=True)
    for name in ("running.py", "other.py"):
        (root / name).write_text("")
    (tmp_path / "link").symlink_to(root)
    git("init", "-q")
    commit()
    assert utils.git_commit() == "unknown"
    git("add", ".")
    commit()
    (root / "other.py").write_text("changed = True")
    assert re.fullmatch("[0-9a-f]{40}", utils.git_commit())
    (root / "running.py").write_text("changed = True")
    assert re.fullmatch(r"[0-9a-f]{40}\+changes", utils.git_commit())
