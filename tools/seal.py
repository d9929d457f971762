"""Give results that an older version wrote their checksums: python -m tools.seal [FOLDER]

Records without checksums get them, if all metrics on test are those of their predictions. Measured files that no
SHA256SUMS lists are listed. A file that has a checksum already is only compared with it: damage is named, never sealed.
The checksums tell that nothing changed since this command ran, not that nothing changed before.
"""

from __future__ import annotations

from pathlib import Path

from engine.records import (
    SECTIONS,
    SINGLE,
    SUMS,
    RunFiles,
    check_file,
    check_predictions,
    check_results,
    load_records,
    note_checksums,
    read_predictions,
    read_sums,
    save_record,
)
from metrics.accuracy import classification_metrics
from utils import ROOT, ArgumentParser, UserError, cli

MEASURED = ("fill_error.csv", "qualitative.json", "robustness.csv", "speed.csv")


def seal_records(folder: Path, task: str) -> int:
    """Give the records of a task their checksums; returns how many had none.

    Raises:
        UserError: a record does not agree with its predictions.
    """
    sealed = 0
    for name, record in load_records(folder, task).items():
        files = RunFiles(folder, task, name)
        check_predictions(files, record)
        if "checksums" in record:
            continue
        for row in record["splits"].get("test", []):
            predictions = read_predictions(files.predictions)
            answers = predictions.by_column[row.get("subset", SINGLE)]
            classes = 1 + max(answers.max(), predictions.labels.max())
            for key, value in classification_metrics(predictions.labels, answers, classes).items():
                if not abs(value - row[key]) < 1e-9:
                    raise UserError(
                        f"{files.record}: {key} {row[key]} is {value} in its predictions: evaluate again"
                    )
        save_record(files, record)
        sealed += 1
    return sealed


def seal_files(folder: Path) -> int:
    """List the measured files that are not listed; returns how many."""
    files = [folder / name for name in MEASURED if (folder / name).is_file()]
    for file in files:
        check_file(file, folder)
    new = [file for file in files if file.name not in read_sums(folder / SUMS)]
    if new:
        note_checksums(*new)
    return len(new)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m tools.seal", description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(ROOT / "results"), help="the results")
    folder = Path(parser.parse_args(argv).folder)
    records = sum(seal_records(folder, task) for task in SECTIONS)
    files = seal_files(folder)
    check_results(folder)
    print(f"{records} records and {files} files have checksums now; all agree with theirs")


if __name__ == "__main__":
    cli(main)
