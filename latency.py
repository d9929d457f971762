"""Time all networks of Task 2's results anew, in turn and on one machine, so that their latencies compare.

    python latency.py                       # nothing else should run meanwhile
    python latency.py --tier cpu-small --rounds 50

Latency does not depend on the weights: the networks are built from the options in results/runs/, so no checkpoint is needed.
Updates the latencies in results/task2_classifiers.csv, where and with what in the records, and the tables and charts.
Ablations are left out, as in the table of cost.
"""
from __future__ import annotations

import torch
from torch import nn
from tqdm import tqdm

from eval_classifiers import BATCH
from measure import latencies_ms
from models.branched import fuse
from report import build as report_build
from report.comparisons import SETTING
from report.records import load_records, read_predictions, run_name
from report.task2.content import FILE, load_rows
from report.task2.rows import RESULTS
from train_task2 import build_network, saved_config
from utils import ROOT, ArgumentParser, UserError, cli, environment, write_json

CHANNELS = 3   # Task 2 takes images with all channels of the pixel cache


def rebuild(record: dict) -> nn.Module:
    """The fused network of a record, with other weights.

    Raises:
        UserError: this version does not build it any more.
    """
    labels = read_predictions(ROOT / "results" / "predictions" / f"{run_name('task2', record)}-test.csv.gz").labels
    try:
        return fuse(build_network(saved_config(record["config"]), CHANNELS, int(labels.max()) + 1))
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"results/runs/{run_name('task2', record)}.json: this version cannot build its network: {error}") from error


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tier", help="of these results alone; default: all")
    parser.add_argument("--rounds", type=int, default=60, help="timed passes of one image, a twentieth of it for a batch of "
                                                               f"{BATCH}; a round has each network once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1")
    torch.set_num_threads(args.threads)
    device, rows, records = torch.device(args.device), load_rows(ROOT), load_records(ROOT, "task2")
    rows = [row for row in rows if row["role"] != "ablation" and args.tier in (None, row["tier"])]
    settings = {tuple(row[key] for key in SETTING) for row in rows}
    if not rows:
        raise UserError(f"{FILE} has no rows to time" + (f" of --tier {args.tier}" if args.tier else ""))
    for setting in sorted(settings):
        mine = [row for row in rows if tuple(row[key] for key in SETTING) == setting]
        chosen = {row["model"]: records[(*setting, row["model"], row["seed"])] for row in mine}
        nets = {name: rebuild(record).to(device, memory_format=torch.channels_last)
                for name, record in tqdm(chosen.items(), desc="build", disable=None)}
        for column, count, rounds in (("latency_ms_b1", 1, args.rounds), ("latency_ms_b256", BATCH, max(1, args.rounds // 20))):
            images = torch.randn(count, CHANNELS, setting[2], setting[2], device=device).to(memory_format=torch.channels_last)
            for name, milliseconds in latencies_ms(nets, images, rounds=rounds).items():
                print(f"{setting[0]:10} {name:45} batch {count:3}: {milliseconds:8.2f} ms")
                for row in mine:
                    if row["model"] == name:
                        row[column] = milliseconds
        RESULTS.upsert(ROOT / FILE, mine)
        for row in mine:
            record = records[(*setting, row["model"], row["seed"])]
            for line in (line for lines in record["splits"].values() for line in lines):
                line.update({key: row[key] for key in ("latency_ms_b1", "latency_ms_b256")})
            write_json(ROOT / "results" / "runs" / f"{run_name('task2', record)}.json", {**record, "timed_with": environment(device)})
    report_build.main([], ROOT)


if __name__ == "__main__":
    cli(main)
