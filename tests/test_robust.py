"""The fast part of `make robust`: a few tries of each fault that needs no process of its own, and properties."""

import csv
import os
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest import fixture, mark, raises

from data.lists import normal_path, parse_list
from report.engineering import make_tables, speed_tables
from tests import mutants, robust
from utils import ROOT, UserError, check_name, free_cores

# the same examples in every run, however slow the machine is
ANY_MACHINE = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


@fixture(scope="module")
def world(tmp_path_factory):
    where = os.getcwd()
    yield robust.make_world(tmp_path_factory.mktemp("world"))
    os.chdir(where)


@mark.parametrize("fault, scale", [("bits", 0.2), ("weights", 0.2), ("inputs", 0.15), ("options", 0.08)])
@mark.filterwarnings("ignore")
def test_faults_are_survived(world, fault, scale, stderr):
    counts = Counter(robust.FAULTS[fault](scale))
    assert sum(counts.values()) > 10
    assert not [what for what, survived in counts if not survived], stderr()


@mark.parametrize("words, tried", [([], ["a", "b"]), (["b"], ["b"])])
def test_all_faults_are_tried_unless_some_are_named(monkeypatch, stdout, stderr, words, tried):
    monkeypatch.setattr(robust, "FAULTS", {name: lambda scale, name=name: [(name, True)] for name in "ab"})
    monkeypatch.setattr(robust, "make_world", lambda folder: None)
    robust.main([*words, "--scale", "0.5"])
    assert [row.split(",")[0] for row in stdout().splitlines()[1:]] == tried
    with raises(SystemExit):
        robust.main(["c"])
    assert "there is no fault c; choose from a, b" in stderr()


def test_a_silent_fault_is_counted(world, monkeypatch):
    """The tool itself can fail: without checksums the flips pass."""
    monkeypatch.setattr("data.cache.checksum", lambda path: None)
    monkeypatch.setattr(
        "data.cache.json.loads",
        lambda text, load=robust.PixelCache.__init__.__globals__["json"].loads: {
            **load(text),
            "crc32": {},
            "meta_crc32": None,
        },
    )
    monkeypatch.setattr("data.cache.meta_checksum", lambda meta: None)
    outcomes = Counter(robust.bits(0.2))
    assert outcomes["pixel cache: refused", False] > 0


@mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name.split()[0].strip(":"))
def test_a_mutant_has_its_place_and_its_test(mutant):
    """`make mutants` makes the change and runs the test; here both must only be there."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    file, _, name = mutant.test.partition("::")
    if name:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
    else:
        assert mutant.test.removeprefix("robust:") in robust.FAULTS


def test_each_row_of_faults_has_its_mutant():
    """A row that no change of the code makes fail shows nothing."""
    begins = {(mutant.test.removeprefix("robust:"), row) for mutant in mutants.MUTANTS for row in mutant.rows}
    assert {fault for fault, _ in begins} == set(robust.FAULTS)
    for row in read_table(ROOT / "results/robustness.csv"):
        assert any(
            fault == row["fault"] and row["what is tried"].startswith(begin) for fault, begin in begins
        ), row


def read_table(file):
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()[1:]))


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=100, **ANY_MACHINE)
def test_any_list_is_read_or_named(text):
    try:
        split = parse_list(text.encode(), "list.txt")
    except UserError as error:
        assert "list.txt" in str(error)
        return
    for path in split.paths:
        assert path == normal_path(path) and not path.startswith("/") and ".." not in path.split("/")


@given(st.lists(st.sampled_from(["a", "b c", ".", "", "\\", "/", "d.png"]), min_size=1, max_size=6))
@settings(max_examples=60, **ANY_MACHINE)
def test_a_path_has_one_normal_form(parts):
    for joint in ("/", "\\", "//", "\\\\", "/./"):
        assert normal_path(joint.join(parts)).lstrip("/") == normal_path("/".join(parts)).lstrip("/")
    assert normal_path(normal_path("/".join(parts))) == normal_path("/".join(parts))


@given(st.text(max_size=120))
@settings(max_examples=100, **ANY_MACHINE)
def test_a_name_that_is_taken_is_one_part_of_a_path(name):
    try:
        check_name(name, "--name")
    except UserError:
        return
    assert (
        os.path.basename(name) == name
        and name not in ("", ".", "..")
        and os.path.join("a", name).startswith("a/")
    )


def test_free_cores_are_some_of_the_cores():
    assert 1 <= free_cores(0.05) <= (os.cpu_count() or 1)


def test_the_table_of_faults(tmp_path):
    assert "make robust" in make_tables(tmp_path)["robustness"]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/robustness.csv").write_text(
        "# commit abc, a processor, Python 3, PyTorch 2\n" + robust.HEADER + 'bits,"one, flipped",300,299\n'
    )
    text = make_tables(tmp_path)["robustness"]
    assert "| one, flipped | 300 | 299 |" in text and "abc" in text and "a processor" in text


def test_the_table_of_speeds(tmp_path):
    assert "tools.benchmark" in speed_tables(tmp_path / "speed.csv")["speed"]
    (tmp_path / "speed.csv").write_text(
        "benchmark,case,value,unit,reference,ratio,low,high,hardware,threads,commit\n"
        'stem,"ResNet-18, n=1",12.5,ms/step,plain,1.01,1.0,1.02,a processor,1,abc\n'
        "scaling,two processes,2000,images/s,,,,,a processor,1,abc\n"
    )
    tables = speed_tables(tmp_path / "speed.csv")
    assert (
        "| ResNet-18, n=1 | 12.5 ms/step | plain | 1.010 (1.000 to 1.020) | a processor, 1 thread |"
        in tables["speed-stem"]
    )
    assert "| two processes | 2,000 images/s | – | – |" in tables["speed"]
