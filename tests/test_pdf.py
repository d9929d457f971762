"""The report as a PDF."""

from helpers import exits, user_error
from pytest import fixture, importorskip, mark

from report import pdf
from utils import ROOT

importorskip("pypandoc")
importorskip("typst")
TEXT = """<!-- made -->
# Title

Some $x_S * W P(S)$ and [a file](../models/shallow.py), see [1].

$$y = \\frac{1}{n} \\sum_{c \\in S} e_c, \\qquad \\operatorname{tr}(W E W^\\top)$$

| model | a | b | c | d | e | f | g | h | i |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
| one of a long name that wants room for itself | 1.0 (0.4 – 1.7) | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |

![Figure 1. A "caption" with W P(S).](figures/one.png)
"""


@fixture
def root(tmp_path):
    """Make a repository with a small report."""
    (tmp_path / "report/figures").mkdir(parents=True)
    (tmp_path / "report/README.md").write_text(TEXT, encoding="utf-8")
    picture = next((ROOT / "report/figures").glob("*.png"))
    (tmp_path / "report/figures/one.png").write_bytes(picture.read_bytes())
    return tmp_path


def test_a_pdf_is_made_twice_the_same_and_known_by_its_sources(root, stderr):
    pdf.main([], root)
    made = (root / "report/report.pdf").read_bytes()
    assert made.startswith(b"%PDF") and len(made) > 20_000
    pdf.main([], root)
    assert (root / "report/report.pdf").read_bytes() == made
    pdf.main(["--check"], root)
    (root / "report/README.md").write_text(TEXT + "More.", encoding="utf-8")
    with exits(1):
        pdf.main(["--check"], root)
    assert "run `python -m report.pdf`" in stderr()


def test_a_missing_figure_or_text_is_named(root):
    (root / "report/figures/one.png").unlink()
    with user_error("README.md shows one.png, which is missing"):
        pdf.main([], root)
    (root / "report/README.md").unlink()
    with user_error("report/README.md is missing"):
        pdf.main([], root)


def test_what_cannot_be_set_is_an_error(root):
    (root / "report/README.md").write_text("```{=typst}\n#nothing()\n```", encoding="utf-8")
    with user_error("typst cannot make the PDF: .*nothing"):
        pdf.main([], root)


@mark.parametrize(
    "text, message",
    [
        ("$\\nosuch{x}$", r"pandoc cannot read report/README.md: .*TeX math"),
        ('```{=typst}\n#text(font: "Nope")[a]\n```', "typst gave a warning: unknown font family"),
        ("![Figure 2. First.](figures/one.png)", "figure 1 from the top is called Figure 2"),
    ],
)
def test_what_would_be_wrong_on_the_page_is_an_error(root, text, message):
    (root / "report/README.md").write_text(text, encoding="utf-8")
    with user_error(message):
        pdf.main([], root)


def test_a_symbol_of_an_older_name_is_set(root):
    (root / "report/README.md").write_text("$S \\cap T$, $a \\odot b$", encoding="utf-8")
    pdf.main([], root)


def test_a_table_longer_than_a_page_goes_on_with_its_header(root):
    def pages(rows: int) -> int:
        text = "| a | b |\n|---|---|\n" + "| x | y |\n" * rows
        (root / "report/README.md").write_text(text, encoding="utf-8")
        return pdf.make_pdf(root, "").count(b"/Type /Page\n")

    assert pages(10) == 1 and pages(300) > 3


def test_code_stays_as_it_is():
    code = "```\n[a](b) <!-- c -->\n```\n"
    assert pdf.prepared(code + "[a](b)") == code + "a"


def test_links_to_files_are_text_and_columns_are_as_wide_as_their_cells():
    text = pdf.prepared(TEXT)
    assert "a file, see [1]" in text and "<!--" not in text and '#picture("figures/one.png"' in text
    assert pdf.wide_tables("columns: 3,") == "columns: 3,"
    assert pdf.wide_tables("columns: (10%, 20%,),") == "columns: 2,"


def test_the_text_below_a_table_is_its_caption():
    """The caption must stay on the table's page: in the paper a figure once came between them."""
    body = "#emph[Table 9. Top-1 of #emph[all] sets.]\n\n#emph[No table.]"
    assert pdf.wide_tables(body) == "#caption[Table 9. Top-1 of #emph[all] sets.]\n\n#emph[No table.]"


def test_the_report_is_set_and_its_pdf_is_current(tmp_path):
    pdf.main(["--check"])
    pdf.main(["--out", str(tmp_path / "report.pdf")])
    assert (tmp_path / "report.pdf").read_bytes() == (ROOT / "report/report.pdf").read_bytes()
