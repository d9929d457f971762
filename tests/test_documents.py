"""README and report stay as short as a reader's five and twenty minutes."""

import importlib
import re

import pandas as pd
from helpers import exits, read_json
from pytest import mark

from grids import NAMED, task1, task2
from report.build import DOCUMENTS, FIELD
from report.numbers import FUNCTIONS
from utils import ROOT

README, REPORT = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "report/README.md"))


def tables(text: str) -> list[list[str]]:
    """List the lines of each table, with heading and rule."""
    return [found.strip().splitlines() for found in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def sentences(text: str) -> list[str]:
    """Those of the prose: no tables, code, figures, lists of references."""
    prose = re.sub(
        r"```.*?```|^\|.*?$|^!\[.*?$|^#.*?$|<!--.*?-->|\$\$.*?\$\$",
        "",
        text.split("## References")[0],
        flags=re.DOTALL | re.MULTILINE,
    )
    return [
        " ".join(one.split())
        for one in re.split(r"(?<=[.:;])\s+(?=[A-Z*$`\-\d])|\n\n|\n- ", prose)
        if one.strip()
    ]


def test_no_two_rows_of_the_appendix_describe_the_same_network():
    described = ["model", "section", "at test", "stem", "width", "epochs", "augment", "decay", "subset"]
    checked = 0
    for head, _, *lines in tables((ROOT / "report/appendix.md").read_text(encoding="utf-8")):
        names, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines))
        if {"model", "augment"} <= set(names):
            networks = [tuple(row[names.index(one)] for one in described if one in names) for row in rows]
            assert len(networks) == len(set(networks)), head
            checked += len(networks)
    assert checked > 300


def test_readme_is_short_and_its_commands_come_first():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert next(number for number, line in enumerate(lines) if line.startswith("make test")) < 60
    assert len(tables(README)) == 2 and all(len(table) - 2 <= 13 for table in tables(README))
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 2


def test_the_report_is_a_paper():
    text = REPORT.split("## References")[0]
    prose = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    assert len([word for word in prose.split() if re.search(r"\w", word)]) <= 4500
    assert len(tables(REPORT)) == 11
    for table in tables(REPORT):
        assert len(table) - 2 <= 16 and table[0].count("|") - 1 <= 14
    figures = re.findall(r"^!\[Figure (\d+)\. ", REPORT, re.MULTILINE)
    assert [int(number) for number in figures] == list(range(1, len(figures) + 1)) and 8 <= len(figures) <= 10
    references = REPORT.split("## References")[1].strip().splitlines()
    assert len(references) >= 20
    cited = {int(number) for group in re.findall(r"\[([\d, ]+)\]", REPORT) for number in group.split(",")}
    assert cited == set(range(1, len(references) + 1))


@mark.parametrize("text", [README, REPORT], ids=["README", "report"])
def test_sentences_are_short(text):
    lengths = sorted(len(one.split()) for one in sentences(text))
    assert lengths[int(0.9 * len(lengths))] <= 25 and lengths[-1] <= 60


def test_no_number_is_missing_from_the_texts():
    for text in (README, REPORT):
        prose = re.sub(r"^\|.*?$", "", text, flags=re.MULTILINE)
        assert not re.search(r"\b(?:is|are|has|have|of|by|to|and|reaches|against) –(?=[ .,;)])", prose)


# a number with decimals, or one of percent or points, is measured, unless it is one of these
MEASURED = re.compile(r"(?<![\w.:/-])\d+\.\d+(?![\w.]*\))|(?<![\w.])\d+(?:\.\d+)? (?:%|points?\b)")
GIVEN = {
    *("95 %", "90 %", "100 %", "5 %", "50 %"),
    *("2.6", "2.11", "3.11", "3.13"),
    *("0.1", "0.2", "0.25", "0.05", "0.5", "0.002", "0.0005", "0.001", "0.9", "1.25", "1.75"),
}
NO_PROSE = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<!--.*?-->|^## References.*",
    re.DOTALL | re.MULTILINE,
)


def typed_numbers(text: str) -> list[str]:
    """Measured numbers that stand in a text by hand, each as "line: number"."""
    prose = text
    for pattern in (NO_PROSE, FIELD):
        prose = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), prose)
    typed = [match for match in MEASURED.finditer(prose) if match[0] not in GIVEN]
    return [f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}" for match in typed]


@mark.parametrize("source", DOCUMENTS.values())
def test_programs_fill_in_what_was_measured(source):
    assert not typed_numbers((ROOT / source).read_text(encoding="utf-8")), source


@mark.parametrize(
    "text, typed",
    [
        ("a\nIt has 47.3 of them.", ["2: 47.3"]),
        ("It is 3 points better than 60 %.", ["1: 3 points", "1: 60 %"]),
        ("PyTorch 2.6, 95 % intervals, `x 1.5`, $1.7$, [a](b.c/1.2), arXiv 1912.03458)", []),
        ("{{ csv a.csv b .2f rule=1.5 }} and\n```\n3.7\n```\n## References\n3.9", []),
    ],
)
def test_typed_numbers_are_told_from_others(text, typed):
    assert typed_numbers(text) == typed


@mark.parametrize("source", DOCUMENTS.values())
def test_programs_count_the_seeds(source):
    assert not re.findall(
        r"\((?:one|two|three|four|five) seeds?\b", (ROOT / source).read_text(encoding="utf-8")
    )


def test_what_the_texts_refer_to_is_there():
    appendix = (ROOT / "report/appendix.md").read_text(encoding="utf-8")
    captions = re.findall(r"^\*Table (\d+)\. ", REPORT, re.MULTILINE)
    assert captions == [str(number + 1) for number in range(len(tables(REPORT)))]
    known = {
        "table": captions,
        "figure": re.findall(r"^!\[Figure (\d+)\. ", REPORT, re.MULTILINE),
        "section": re.findall(r"^## (\d+)\. ", REPORT, re.MULTILINE),
        "appendix": re.findall(r"^## ([A-Z])\. ", appendix, re.MULTILINE),
    }
    for text in (REPORT, appendix):
        named = re.findall(r"\b(table|figure|section|appendix) (\d+|[A-Z])\b", text, re.IGNORECASE)
        assert not [(kind, name) for kind, name in named if name not in known[kind.lower()]]
    for page in (
        "README.md",
        "report/README.md",
        "report/appendix.md",
        "data/README.md",
        "channelset/README.md",
    ):
        text = (ROOT / page).read_text(encoding="utf-8")
        links = {link for link in re.findall(r"\]\(([^)\s#]+)", text) if not link.startswith("http")}
        assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()], page


COMMAND = re.compile(r"\bpython (?:-m )?([\w.]+\w)((?: [^\s`#|]+)*)")


@mark.parametrize("page", ["README.md", "report/README.md", "report/appendix.md", "data/README.md"])
def test_scripts_know_the_options_of_the_commands(page, capsys):
    for name, words in COMMAND.findall((ROOT / page).read_text(encoding="utf-8")):
        script = importlib.import_module(name.removesuffix(".py"))
        first = [word for word in words.split()[:1] if not word.startswith("-")]  # as in data.prepare build
        with exits(0):
            script.main([*first, "--help"])
        options = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        assert {word.split("=")[0] for word in words.split() if word.startswith("--")} <= options, (
            name,
            words,
        )


def test_names_of_the_texts_belong_to_one_task_and_are_used():
    assert not task1.NAMED.keys() & task2.NAMED.keys()
    texts = [(ROOT / source).read_text(encoding="utf-8") for source in DOCUMENTS.values()]
    words = {word for text in texts for field in FIELD.findall(text) for word in field.split()}
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "report").glob("*.py"))
    assert not [name for name in NAMED if name not in words and f'"{name}"' not in code]
    assert not [function for function in FUNCTIONS if function not in words]


def test_measurements_beside_the_records_have_their_provenance():
    for name in ("fill_error.csv", "fill_error_fine.csv"):
        table = pd.read_csv(ROOT / "results" / name)
        assert table["commit"].str.fullmatch("[0-9a-f]{40}").all()
        assert table["dataset_digest"].str.len().eq(12).all()
    found = read_json(ROOT / "results/qualitative.json")
    for one in (
        found["evaluated_with"],
        *(each["trained_with"] for each in (found["ours"], *found["networks"])),
    ):
        assert re.fullmatch("[0-9a-f]{40}", one["commit"]) and one["hardware"]
