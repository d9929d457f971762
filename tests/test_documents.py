"""README and report stay as short as a reader's five and twenty minutes."""

import json
import re

import pandas as pd
import pytest

from grids import task1, task2
from utils import ROOT

README, REPORT = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "report/README.md"))


def tables(text: str) -> list[list[str]]:
    """The lines of each table, with heading and rule."""
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


def test_readme_is_short_and_its_commands_come_first():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert next(number for number, line in enumerate(lines) if line.startswith("make test")) < 60
    assert len(tables(README)) == 2 and all(len(table) - 2 <= 8 for table in tables(README))
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 2


def test_the_report_is_a_paper():
    words = [word for word in REPORT.split() if re.search(r"\w", word)]
    assert len(words) <= 4500
    assert len(tables(REPORT)) == 6
    for table in tables(REPORT):
        assert len(table) - 2 <= 10 and table[0].count("|") - 1 <= 10
    figures = re.findall(r"^!\[Figure (\d+)\. ", REPORT, re.MULTILINE)
    assert [int(number) for number in figures] == list(range(1, len(figures) + 1)) and 8 <= len(figures) <= 10
    references = REPORT.split("## References")[1].strip().splitlines()
    assert len(references) >= 20
    cited = {int(number) for group in re.findall(r"\[([\d, ]+)\]", REPORT) for number in group.split(",")}
    assert cited <= set(range(1, len(references) + 1))


@pytest.mark.parametrize("text", [README, REPORT], ids=["README", "report"])
def test_sentences_are_short(text):
    lengths = sorted(len(one.split()) for one in sentences(text))
    assert lengths[int(0.9 * len(lengths))] <= 25 and lengths[-1] <= 60


def test_no_number_is_missing_from_the_texts():
    for text in (README, REPORT):
        prose = re.sub(r"^\|.*?$", "", text, flags=re.MULTILINE)
        assert not re.search(r"\b(?:is|are|has|have|of|by|to|and|reaches|against) – ", prose)


def test_names_of_the_texts_belong_to_one_task():
    assert not task1.NAMED.keys() & task2.NAMED.keys()


def test_measurements_beside_the_records_have_their_provenance():
    table = pd.read_csv(ROOT / "results/fill_error.csv")
    assert (
        table["commit"].str.fullmatch("[0-9a-f]{40}").all() and table["dataset_digest"].str.len().eq(12).all()
    )
    found = json.loads((ROOT / "results/qualitative.json").read_text(encoding="utf-8"))
    for one in (
        found["evaluated_with"],
        *(each["trained_with"] for each in (found["ours"], *found["networks"])),
    ):
        assert re.fullmatch("[0-9a-f]{40}", one["commit"]) and one["hardware"]
