"""Make report/report.pdf from the report (without its appendix); LaTeX is not needed.

python -m report.pdf            write the PDF in a few seconds; needs pypandoc_binary and typst, see requirements.txt
python -m report.pdf --check    write nothing; exit 1 if texts or figures changed after the PDF was made
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import sys
import tempfile
from pathlib import Path

from storage.files import atomic_path
from utils import ROOT, ArgumentParser, UserError, cli

TEXT = "report/README.md"
TEMPLATE = Path(__file__).with_name("template.typ")
FORMAT = "markdown-implicit_figures-citations-smart+pipe_tables+tex_math_dollars-raw_tex"
IMAGE = re.compile(r"^!\[(.*)\]\(([^)\s]+)\)$", re.MULTILINE)
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
MARK = "sha256 of texts and figures: "


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(prog="python -m report.pdf", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(root / "report" / "report.pdf"), help="file for the PDF")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the PDF is not up to date"
    )
    args = parser.parse_args(argv)
    out, digest = Path(args.out), source_digest(root)
    if args.check:
        if not out.is_file() or (MARK + digest).encode() not in out.read_bytes():
            print(f"{out.name} is stale: run `python -m report.pdf` and commit it", file=sys.stderr)
            sys.exit(1)
        return
    with atomic_path(out) as temporary:
        temporary.write_bytes(make_pdf(root, digest))
    print(f"wrote {out}")


def sources(root: Path) -> list[Path]:
    """List the files from which the PDF is made: the text, its figures and the template.

    Raises:
        UserError: a file is missing.
    """
    text = root / TEXT
    if not text.is_file():
        raise UserError(f"{TEXT} is missing: run `python -m report.build`")
    images = [text.parent / image for _, image in IMAGE.findall(text.read_text(encoding="utf-8"))]
    for image in images:
        if not image.is_file():
            raise UserError(f"{TEXT} shows {image.name}, which is missing: run `python -m report.build`")
    return [text, *images, TEMPLATE]


def source_digest(root: Path) -> str:
    """Compute the sha256 over the contents of all `sources`."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources(root))).hexdigest()


def make_pdf(root: Path, digest: str) -> bytes:
    """Make the PDF; return its bytes. pandoc converts the text to the language of Typst, and Typst sets the pages.

    Args:
        root: folder of the repository.
        digest: result of `source_digest`, which the PDF stores.

    Raises:
        UserError: a package is missing, or pandoc or Typst fails. A warning also counts as a failure, since a formula
            or a font would be wrong on the page.
    """
    try:
        import pypandoc  # imported here, because only this function needs it
        import typst
    except ImportError as error:
        raise UserError(
            f"the package {error.name} is missing: run `pip install pypandoc_binary typst==0.14.9`"
        ) from error
    try:
        body = pypandoc.convert_text(
            prepared((root / TEXT).read_text(encoding="utf-8")),
            "typst",
            FORMAT,
            ["--wrap=none", "--fail-if-warnings"],
        )
    except OSError as error:  # pypandoc is installed without the pandoc program
        raise UserError("pandoc is missing: run `pip install pypandoc_binary`") from error
    except RuntimeError as error:
        message = str(error).partition("during conversion: ")[2] or str(error)
        raise UserError(f"pandoc cannot read {TEXT}: {message.splitlines()[0]}") from error
    text = TEMPLATE.read_text(encoding="utf-8").replace("DIGEST", MARK + digest) + wide_tables(body)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "report.typ"
        source.write_text(text, encoding="utf-8")
        shutil.copytree(root / "report" / "figures", Path(folder) / "figures")
        try:
            pdf, warnings = typst.compile_with_warnings(str(source), root=folder, ignore_system_fonts=True)
        except typst.TypstError as error:
            raise UserError(f"typst cannot make the PDF: {str(error).strip().splitlines()[0]}") from error
    for warning in warnings:
        if "is deprecated" not in str(warning):  # pandoc writes old names of symbols, which still work
            raise UserError(f"typst gave a warning: {str(warning).strip().splitlines()[0]}")
    return pdf


def prepared(text: str) -> str:
    """Prepare the Markdown for pages: images become figures, and links to files of the repository become plain text.

    Raises:
        UserError: the numbers of the figures in the text are not 1, 2, 3, ... Typst numbers the figures in this way.
    """
    positions = itertools.count(1)

    def figure(match: re.Match) -> str:
        position = next(positions)
        number, caption = re.fullmatch(r"(?:Figure (\d+)\. )?(.*)", match[1]).groups()
        if number and int(number) != position:
            raise UserError(
                f"{TEXT}: figure {position} from the top is called Figure {number}: correct its number"
            )
        caption = caption.replace("\\", "\\\\").replace('"', '\\"')
        return f'```{{=typst}}\n#picture("{match[2]}", "{caption}")\n```'

    parts = FENCED.split(text)
    for i in range(0, len(parts), 2):  # the parts between are code, which stays as it is
        part = IMAGE.sub(figure, re.sub(r"<!--.*?-->\n?", "", parts[i], flags=re.DOTALL))
        parts[i] = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", part)
    return "".join(parts)


def wide_tables(text: str) -> str:
    """Make columns of the tables in a Typst text as wide as their cells, and let tables break across pages."""

    def automatic(match: re.Match) -> str:
        return f"columns: {sum(1 for width in match[1].split(',') if width.strip())},"

    text = re.sub(r"#figure\(\s*align\(center\)\[#table\(", "#plain-table(table(", text)
    text = re.sub(r"columns: \(([^)]*)\),", automatic, text)
    text = re.sub(r"^#emph\[(Table \d+\..*)\]$", r"#caption[\1]", text, flags=re.MULTILINE)
    return re.sub(r"\)\]\s*, kind: table\s*\)", "))", text)


if __name__ == "__main__":
    cli(main)
