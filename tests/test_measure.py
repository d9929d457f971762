"""Costs: two independent counters agree, and measuring leaves the model as it was."""

import copy
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from helpers import count_macs, user_error
from pytest import approx, fixture, mark
from torch import nn
from torchvision.models import resnet18

import eval_channels
from config import Task1Config
from data.lists import read_lists
from data.prepare import check, parse
from metrics.cost import count_params, flop_counter_macs, latencies_ms, latency_ms, peak_memory_mb
from models.shallow_baselines import SelfAttention
from tools import benchmark
from utils import parse_config


@fixture(scope="module")
def model():
    return resnet18(num_classes=10)


def test_params(model):
    for layer in (nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3).requires_grad_(False)):
        assert count_params(layer) == 3 * 8 * 9 + 8
    assert count_params(model) == 11_689_512 - 990 * 513  # torchvision's figure for 1,000 classes


def test_a_set_of_the_course_size_and_the_cost_of_its_commands(tmp_path, monkeypatch):
    folder = benchmark.draw_course(tmp_path / "course", {"train": 120, "val": 50, "test": 50})
    lists = read_lists(folder)
    assert [len(lists.splits[name].paths) for name in ("train", "val", "test")] == [120, 50, 50]
    check(lists, True, 1)  # every picture is decoded, and none is there twice
    seconds, memory = benchmark.cost_of(["-c", "import time; x = b'x' * (99 << 20); time.sleep(0.2)"])
    assert seconds > 0.2 and 99 < memory < 150  # less than this process has
    with user_error("-c raise SystemExit.3.` failed"):
        benchmark.cost_of(["-c", "raise SystemExit(3)"])

    tried, rows = [], benchmark.Rows(torch.device("cpu"))
    monkeypatch.setattr(benchmark, "COURSE", {"train": 100, "val": 50, "test": 50})
    monkeypatch.setattr(benchmark, "cost_of", lambda words: tried.append(words) or (2.0, 3.0))
    benchmark.bench_course(SimpleNamespace(threads=1, image_size=64, device="cpu"), rows)
    assert [row["case"] for row in rows.rows[::2]] == [
        "200 images: check",
        "200 images: check --decode",
        "200 images: cache for 64 px",
        "200 images: train_task1.py, one epoch at 64 px",
        "200 images: eval_channels.py",
    ]
    assert {(row["value"], row["unit"]) for row in rows.rows} == {(2.0, "s"), (3.0, "MiB")}
    for words in tried[:3]:
        parse(words[2:])  # the command knows these options
    assert parse_config(Task1Config, tried[3][1:]).epochs == 1
    assert eval_channels.make_parser().parse_args(tried[4][1:]).repeats == 0


def test_a_row_of_a_benchmark_names_its_threads(monkeypatch):
    rows = []

    def first(args, table):
        torch.set_num_threads(1)
        table.add("first", "a", 1.0, "s")

    def second(args, table):
        table.add("second", "b", 1.0, "s")
        rows.extend(table.rows)

    monkeypatch.setattr(benchmark, "BENCHMARKS", {"first": first, "second": second})
    try:
        benchmark.main(["first", "second", "--threads", "2"])
    finally:
        torch.set_num_threads(1)
    assert [row["threads"] for row in rows] == [1, 2] and set(rows[0]) == {*benchmark.COLUMNS}


def test_both_counters_agree_on_resnet18(model):
    macs = count_macs(model, (3, 64, 64))
    assert macs == flop_counter_macs(model, torch.zeros(1, 3, 64, 64))
    assert count_macs(model.conv1, (3, 64, 64)) == 32 * 32 * 64 * 3 * 49


def test_functional_convolutions_count():
    class Functional(nn.Module):
        def forward(self, x):
            return F.conv2d(x, torch.zeros(4, 3, 1, 1))

    assert flop_counter_macs(Functional(), torch.zeros(1, 3, 5, 5)) == 4 * 3 * 25


def test_attention_costs_its_layers_and_both_products():
    tokens, channels = 16, 8
    layers, products = 4 * tokens * channels**2, 2 * tokens**2 * channels
    x = torch.zeros(1, tokens, channels)
    attention = nn.MultiheadAttention(channels, 2, batch_first=True)
    assert flop_counter_macs(attention, x, x, x) == layers + products
    encoder = nn.TransformerEncoderLayer(channels, 2, 5, batch_first=True)
    assert flop_counter_macs(encoder, x) == layers + products + 2 * tokens * channels * 5
    split = SelfAttention(channels)
    assert flop_counter_macs(split, x.mT.unflatten(2, (4, 4))) == layers + products
    assert torch.backends.mha.get_fastpath_enabled()


def test_measuring_leaves_the_model_alone(model):
    model.train()
    model.layer1.eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.zeros(1, 3, 32, 32)
    flop_counter_macs(model, x), peak_memory_mb(model, x)
    latency_ms(model, x, repeats=1)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert model.training and model.layer2.training and not model.layer1.training


class Takes(nn.Module):
    """Moves a clock on by as many seconds in each pass, and more in the first."""

    def __init__(self, clock: list[float], seconds: float):
        super().__init__()
        self.clock, self.seconds, self.passes = clock, seconds, 0

    def forward(self, x):
        self.passes += 1
        self.clock[0] += self.seconds if self.passes > 1 else 100 * self.seconds
        return x


def test_a_latency_is_the_median_without_the_warm_up(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    network = Takes(clock, 0.002).train()
    assert latency_ms(network, torch.zeros(1), repeats=1) == approx(2)
    assert network.passes == 2 and network.training


@mark.parametrize("measure", [latency_ms, lambda net, x, repeats: latencies_ms({"": net}, x, rounds=repeats)])
def test_a_latency_waits_for_any_gpu(monkeypatch, measure):
    """Here "meta" stands for a GPU of any maker."""
    waited = []
    monkeypatch.setattr("torch.accelerator.synchronize", waited.append)
    measure(nn.Identity(), torch.zeros(1, device="meta"), repeats=1)
    assert waited[-2:] == [torch.device("meta")] * 2
    waited.clear()
    measure(nn.Identity(), torch.zeros(1), repeats=1)
    assert waited == []


def test_networks_timed_in_turn(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    narrow, wide = Takes(clock, 0.001), Takes(clock, 0.003).train()
    times = latencies_ms({"narrow": narrow, "wide": wide}, torch.zeros(1), rounds=3)
    assert times == approx({"narrow": 1, "wide": 3}) and wide.training
    assert narrow.passes == wide.passes == 6  # the first pass of a round is not timed


# ---------------------------------------------------------------- memory

MAP = 4 * 20 * 20  # bytes of one channel of 20 x 20 px


def conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 1, bias=False)


def peak_bytes(model: nn.Module, *inputs) -> int:
    return round(1e6 * peak_memory_mb(model, *inputs))


def image(channels: int = 3) -> torch.Tensor:
    return torch.zeros(1, channels, 20, 20)


def test_peak_of_a_chain_is_its_largest_input_and_output():
    chain = nn.Sequential(conv(3, 8), conv(8, 16), conv(16, 5), conv(5, 5))
    weights = 4 * (24 + 128 + 80 + 25)
    # the image, and both sides of the second layer
    assert peak_bytes(chain, image()) == weights + MAP * (3 + 8 + 16)
    assert peak_bytes(chain[:1], image()) == 4 * 24 + MAP * (3 + 8)
    assert peak_bytes(chain.half(), image().half()) == (weights + MAP * 27) / 2
    chain.float()
    assert peak_bytes(nn.Identity(), image()) == MAP * 3
    # the same on any device
    assert peak_memory_mb(chain.to("meta"), image().to("meta")) == (weights + MAP * 27) / 1e6


@mark.parametrize("inplace, maps", [(True, 3 + 8), (False, 3 + 8 + 8)])
def test_an_in_place_relu_needs_no_memory(inplace, maps):
    assert peak_bytes(nn.Sequential(conv(3, 8), nn.ReLU(inplace)), image()) == 4 * 24 + MAP * maps


def test_views_are_free_and_count_as_the_memory_they_keep():
    class Views(nn.Module):
        def forward(self, x):
            # 7 values keep all of relu(x)
            y = F.relu(x).flatten(1)[:, :7].view(1, 7, 1, 1).expand(1, 7, 50, 50)
            return y[..., :1].relu()

    assert peak_bytes(Views(), image()) == MAP * (3 + 3) + 4 * 7 * 50
    assert peak_bytes(nn.Identity(), image(9)[:, :2]) == MAP * 9


def test_a_residual_is_kept_alive():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    layers, weights = [conv(4, 4), conv(4, 6), conv(6, 4)], 4 * (16 + 24 + 24)
    assert peak_bytes(nn.Sequential(nn.ReLU(), *layers), image(4)) == weights + MAP * (4 + 4 + 6)
    assert peak_bytes(nn.Sequential(nn.ReLU(), Residual(*layers)), image(4)) == weights + MAP * (
        4 + 4 + 4 + 6
    )


def test_weights_count_once_and_buffers_too():
    layer = conv(4, 4)
    assert peak_bytes(nn.Sequential(layer, layer), image(4)) == 4 * 16 + MAP * 12
    tied = conv(4, 4)
    tied.weight.data = layer.weight.data  # two parameters of one memory
    assert peak_bytes(nn.Sequential(layer, tied), image(4)) == 4 * 16 + MAP * 12
    layer.register_buffer("table", torch.zeros(1000, dtype=torch.int64))
    assert peak_bytes(nn.Sequential(layer, tied), image(4)) == 4 * 16 + MAP * 12 + 8000


def test_results_that_are_dropped_at_once_count():
    # values, and indices of twice their size
    assert peak_bytes(nn.MaxPool2d(2), image()) == MAP * 3 + MAP * 3 // 4 * 3


def test_a_forward_pass_frees_what_it_made(model):
    assert (
        peak_memory_mb(model, image())
        == peak_memory_mb(model, image())
        < peak_memory_mb(model, torch.zeros(2, 3, 20, 20))
    )


def test_a_layer_in_several_places_is_counted_once_a_call():
    layer, x = nn.Conv2d(3, 3, 3, padding=1), torch.zeros(1, 3, 8, 8)
    once = flop_counter_macs(layer, x)
    assert once == 8 * 8 * 3 * 3 * 9
    assert flop_counter_macs(nn.Sequential(layer, nn.Sequential(layer, layer)), x) == 3 * once
