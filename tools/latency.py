"""Time all networks in the results of Task 2 again, in turn on one machine, so that latencies can be compared.

    python -m tools.latency                          # ten minutes on a CPU; run nothing else meanwhile
    python -m tools.latency --preset 48px-quarter --rounds 50

Latency does not depend on the weights. So the networks are built from the options in results/task2/runs/, and no
checkpoint is needed. The command updates latencies, machine and versions in the records, and then the table of all
records. It does not time ablations, because the table of cost does not show them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from config import DEVICES, choose_device
from data.lists import RGB
from engine.records import (
    NEXT,
    RunFiles,
    check_predictions,
    load_records,
    read_predictions,
    save_record,
    write_table,
)
from metrics.cost import BATCH, latencies_ms
from models.branched import fuse
from models.task2 import build_classifier
from report.results import Setting, load_settings
from storage.locks import one_at_a_time
from utils import ROOT, ArgumentParser, UserError, cli, environment, progress_bar, within


def rebuild(record: dict, name: str, root: Path = ROOT) -> nn.Module:
    """Build the fused network that the record `name` describes, with new weights.

    Raises:
        UserError: this version cannot build the network.
    """
    files = RunFiles(root / "results", "task2", name)
    try:
        classes = int(read_predictions(files.predictions).labels.max()) + 1
        channels = len(record.get("channels") or RGB)  # older records of RGB data do not hold the channels
        return fuse(build_classifier(record["config"], channels, classes))
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{files.record.name}: this version cannot build its network: {error}") from error


def time_setting(setting: Setting, records: dict[str, dict], device: torch.device, rounds: int) -> list[str]:
    """Time the networks of a setting and write the latencies into `records`; return the names of these records.

    A setting is a group of results with the same preset, data set and image size. An entry is a network with all of its
    seeds; only entries that are not ablations are timed.
    """
    runs = {entry: list(dict.fromkeys(setting.of(entry)["run"])) for entry in setting.compared}
    nets = {
        entry: rebuild(records[names[0]], names[0], setting.folder.parent).to(
            device, memory_format=torch.channels_last
        )
        for entry, names in progress_bar(runs.items(), desc="build")
    }
    shape = len(setting.channels), setting.image_size, setting.image_size
    for column, count, times in (
        ("latency_ms_b1", 1, rounds),
        ("latency_ms_b256", BATCH, max(1, rounds // 20)),
    ):
        images = torch.randn(count, *shape, device=device).to(memory_format=torch.channels_last)
        for entry, milliseconds in latencies_ms(nets, images, rounds=times).items():
            print(f"{setting.preset:12} {setting.describe(entry):60} batch {count:3}: {milliseconds:8.2f} ms")
            for row in (
                row for name in runs[entry] for rows in records[name]["splits"].values() for row in rows
            ):
                row[column] = milliseconds
    return [name for names in runs.values() for name in names]


def main(argv: list[str] | None = None, root: Path = ROOT) -> None:
    parser = ArgumentParser(prog="python -m tools.latency", description=__doc__)
    parser.add_argument("--preset", help="preset of the results (default: all)")
    parser.add_argument(
        "--rounds",
        type=within(1, 10**6),
        default=60,
        help=f"number of timed passes for one image; for a batch of {BATCH}, a twentieth of this number",
    )
    parser.add_argument("--device", default="cpu", help=DEVICES)
    parser.add_argument("--threads", type=within(1, 4096), default=1, help="CPU threads")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device, records = torch.device(choose_device(args.device)), load_records(root / "results", "task2")
    for name, record in records.items():  # a damaged record must not get a new checksum
        check_predictions(RunFiles(root / "results", "task2", name), record)
    settings = [one for one in load_settings(root, "task2")[1] if args.preset in (None, one.preset)]
    if not any(setting.compared for setting in settings):
        raise UserError(
            "results/task2 has no networks to time" + (f" of --preset {args.preset}" if args.preset else "")
        )
    timed = [name for setting in settings for name in time_setting(setting, records, device, args.rounds)]
    with one_at_a_time(root / "results" / "task2"):
        for name in timed:
            files = RunFiles(root / "results", "task2", name)
            check_predictions(files, records[name])  # meanwhile an evaluation may have replaced them
            save_record(files, {**records[name], "timed_with": environment(device)})
        write_table(root / "results", "task2")
    print(NEXT)


if __name__ == "__main__":
    cli(main)
