"""Answers for files: the numbers of an evaluation, whatever holds the image."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from helpers import command_line, exits, user_error, write_set
from PIL import Image
from pytest import approx, fixture, mark

import predict
import train_task1
import train_task2
from data.dataset import make_batches, open_data
from data.derive import derive
from data.files import LARGEST_IMAGE
from data.lists import read_lists
from engine.prediction import Predictor, grad_cam
from engine.records import read_predictions
from utils import cli


def answer(*options) -> None:
    predict.main(command_line(*options, "--device cpu --threads 1"))


@fixture
def banded(tmp_path) -> Path:
    """Write a data set of .npy images of four bands, uint16: 3 classes of 12 x 12 px."""
    root, rng = tmp_path / "banded", np.random.default_rng(0)

    def save(path, *_):
        np.save(path, rng.integers(0, 4000, (12, 12, 4), np.uint16))

    write_set(root, "images/c{label}/{number}.npy", save)
    (root / "bands.txt").write_text("B02 490\nB03 560\nB04 665\nB08 842\n")
    return root


def test_the_answers_are_those_of_the_evaluation(train, tiny_dataset, evaluate):
    train("--image-size 16 --out run")  # with an edge of a pixel that is cut off
    trained = Path("run/model.pt")
    evaluate(trained, "--repeats 0 --split test --subsets", "RGB RG B")
    (file,) = Path("results/task1/predictions").iterdir()
    known, predictor = read_predictions(file.absolute()), Predictor(trained)
    batches = make_batches(open_data(str(tiny_dataset), 16, "cache"), "test", 16, (2, 0), torch.device("cpu"))
    images = [predictor.pixels(tiny_dataset / image, (2, 0)) for image in known.images]
    assert torch.equal(predictor.normalised(images, (2, 0)), next(batches.eval_batches(6))[0])
    for subset in ("RGB", "RG", "B"):
        mine = [predictor(tiny_dataset / image, subset, 1)[0][0] for image in known.images]
        assert mine == [predictor.classes[answer] for answer in known.by_column[subset]], subset
    assert sum(share for _, share in predictor(tiny_dataset / known.images[0], top=3)) == approx(1)


def test_a_missing_argument_points_to_the_help(stderr):
    with exits(2):
        predict.main(["model.pt"])
    assert stderr().endswith("error: the following arguments are required: images; see --help\n")


def test_the_order_of_the_channels_in_the_text_changes_no_answer(command, tiny, tiny_dataset):
    picture = tiny_dataset / "images/n00000001/n00000001_0.JPEG"
    for script, options in ((train_task1, tiny), (train_task2, [*tiny, "--no-stem-pool"])):
        command(script, *options, "--epochs 1 --out", script.__name__)
        predictor = Predictor(Path(script.__name__, "model.pt"))
        names, shares = zip(*predictor(picture))
        for text in ("BGR", "G,B,R"):
            other = predictor(picture, text)
            assert tuple(name for name, _ in other) == names
            assert [share for _, share in other] == approx(shares, abs=1e-6), (script.__name__, text)


@mark.usefixtures("drawn")
def test_one_line_an_image_a_table_and_a_picture(trained, tiny_dataset, stdout, monkeypatch):
    monkeypatch.setattr(predict, "TOGETHER", 1)
    folder = tiny_dataset / "images" / "n00000001"
    for file in sorted(folder.iterdir())[2:]:
        file.unlink()
    again = folder / "n00000001_0.JPEG"  # named twice, as itself and by its folder
    answer(trained, folder, again, "--channels RG --top 2 --csv out.csv")
    lines = stdout().splitlines()
    assert len(lines) == 3 and lines[0].startswith(f"{folder / 'n00000001_0.JPEG'}: n0000000")
    assert lines[-1] == "wrote out.csv"
    rows = list(csv.DictReader(open("out.csv", encoding="utf-8")))
    assert len(rows) == 4 and [row["rank"] for row in rows[:2]] == ["1", "2"]
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"]) > 0
    assert f"{rows[0]['class']} {100 * float(rows[0]['probability']):.1f} %, " in lines[0]
    answer(trained, folder, "--channels R --picture pictures")
    assert stdout().splitlines()[-1] == "wrote pictures"
    assert len(list(Path("pictures").glob("*.png"))) == 2
    answer(trained, folder / "n00000001_0.JPEG", "--picture one.png")
    with Image.open("one.png") as whole, Image.open("pictures/n00000001_0.png") as part:
        assert whole.width > part.width  # seven sets, one set


def test_no_output_replaces_an_image_the_network_or_another_output(trained, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(folder / name)
    (tmp_path / "link.png").symlink_to(folder / "a.png")
    kept = [trained, *folder.iterdir()]
    before = [path.read_bytes() for path in kept]
    for images, options, message in (
        (folder, ["--picture", folder], "--picture .*a.png would replace .*a.png"),
        (folder / "a.png", ["--picture", folder / "a.png"], "--picture .* would replace"),
        (tmp_path / "link.png", ["--csv", folder / "a.png"], "--csv .* would replace .*link.png"),
        (folder, ["--csv", trained], "--csv .* would replace .*model.pt"),
        (
            folder / "a.png",
            ["--csv out --picture out"],
            "--picture of .* out would replace the output of --csv",
        ),
    ):
        with user_error(message):
            answer(trained, images, *options)
    assert [path.read_bytes() for path in kept] == before


def test_outputs_are_checked_before_an_image_is_classified(trained, tiny_dataset, tmp_path, stdout):
    folder, image = tiny_dataset / "images/n00000000", tiny_dataset / "images/n00000000/n00000000_7.JPEG"
    for name in ("file.csv", "photo.jpg"):
        (tmp_path / name).write_text("kept")
    for images, options, message in (
        (folder, ["--csv ."], "cannot write .: it is a folder"),
        (image, ["--csv /dev/full"], "cannot write /dev/full: it is a folder, a device"),
        (image, ["--csv file.csv/a.csv"], "cannot write to file.csv"),
        (image, ["--picture ."], "cannot write .: it is a folder"),
        (folder, ["--picture file.csv"], "cannot write to file.csv"),
        (image, ["--picture photo.jpg"], "--picture photo.jpg: the program draws a PNG"),
    ):
        with user_error(message):
            answer(trained, images, *options)
    assert stdout() == ""
    assert [(tmp_path / name).read_text() for name in ("file.csv", "photo.jpg")] == ["kept"] * 2


@mark.usefixtures("drawn")
def test_a_network_of_task_2_takes_all_channels(command, tiny, tiny_dataset, stdout):
    command(train_task2, *tiny, "--epochs 1 --out two")
    file = str(tiny_dataset / "images/n00000000/n00000000_7.JPEG")
    answer("two/model.pt", file, "--picture two.png")
    *_, answered, written = stdout().splitlines()
    assert answered.startswith(f"{file}: n0000000") and written == "wrote two.png"
    assert Path("two.png").exists()
    with user_error("--channels RG: this network needs all of its channels R, G, B"):
        answer("two/model.pt", file, "--channels RG")


@mark.usefixtures("drawn")
def test_bands_are_taken_by_name_also_where_a_file_holds_these_alone(train, banded):
    train("--data", banded, "--epochs 1 --out bands")
    file, predictor = banded / "images/c1/7.npy", Predictor("bands/model.pt")
    np.save("two.npy", np.load(file)[..., [3, 1]])  # B08 and B03
    np.save("turned.npy", np.load(file).transpose(2, 0, 1))
    assert predictor("two.npy", "B08,B03") == predictor(file, "B08,B03") == predictor(file, "842nm,B03")
    assert predictor("turned.npy") == predictor(file) != predictor(file, "B08,B03")
    answer("bands/model.pt", file, "--picture bands.png")
    assert Path("bands.png").exists()
    Image.new("RGB", (12, 12)).save("photo.png")
    with user_error(
        r"cannot read photo.png as an image of 4 channels \(B02, .*expected 4 channels, which need"
    ):
        predictor("photo.png")
    for channels, reason in (("B99", "B99"), ("", "no channel ''"), (["B08"], "give it as text")):
        with user_error(reason):
            predictor(file, channels)
    with user_error("at least one class"):
        predictor(file, "B08", top=0)
    for path in banded.glob("images/*/*.npy"):
        np.save(path, (np.load(path) // 16).astype(np.uint8))
    train("--data", banded, "--epochs 1 --out eight")
    predictor, grey = Predictor("eight/model.pt"), np.load(file)[..., 0]
    Image.fromarray(grey).save("grey.png")
    assert predictor("grey.png", "B02") == predictor(file, "B02")
    with user_error("cannot read photo.png .*a colour picture has three channels, but only one is asked for"):
        predictor("photo.png", "B02")


def test_a_picture_holds_red_green_and_blue_in_this_order(train, tiny_dataset):
    derive(read_lists(tiny_dataset), "sobel", "four")
    train("--data four --epochs 1 --out run4")
    predictor, name = Predictor("run4/model.pt"), "images/n00000001/n00000001_0"
    picture, array = tiny_dataset / f"{name}.JPEG", Path("four", f"{name}.npy")
    ids = predictor.ids("B,G,R")
    assert np.abs(predictor.pixels(picture, ids).astype(int) - predictor.pixels(array, ids)).max() <= 1
    with user_error("a picture has 3 channels, R, G and B, not R, G, sobel"):
        predictor.pixels(picture, predictor.ids("R,G,sobel"))


def test_a_network_answers_for_all_images_of_its_training(train, banded):
    for path in banded.glob("images/*/*.npy"):
        np.save(path, np.load(path).astype(np.int16) - 2000)  # the cache holds them as float32
    train("--data", banded, "--epochs 1 --out signed")
    cache, predictor = open_data(str(banded), 8, "cache"), Predictor("signed/model.pt")
    part, ids = cache.split("test"), predictor.ids(None)
    assert np.array_equal(predictor.pixels(banded / part.paths[0], ids), part.images[0][:8, :8])
    np.save("unsigned.npy", np.load(banded / part.paths[0]).astype(np.uint16))
    with user_error("the pixels are uint16, but the first image has float32"):
        predictor.pixels("unsigned.npy", ids)


def test_what_cannot_be_read_is_named_and_the_others_are_answered(trained, tiny_dataset, capsys):
    folder = tiny_dataset / "images" / "n00000002"
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    with user_error("1 of 9 images cannot be read"):
        answer(trained, folder, "--csv out.csv")
    shown = capsys.readouterr()
    assert shown.out.count("n0000000") >= 8 and "broken.png" in shown.err.splitlines()[-1]
    assert len(Path("out.csv").read_text().splitlines()) == 1 + 8 * 3
    (empty := Path("empty")).mkdir()
    for path, message in (
        (empty, "no images in empty"),
        (Path("missing.png"), "no file or folder missing.png"),
    ):
        with user_error(message):
            answer(trained, path)
    with user_error("expected 'task1-model' or 'task2-model'"):
        answer("run/last.pt", folder)


def test_the_map_is_where_the_slope_of_the_likeliest_class_is():
    class Corner(torch.nn.Module):
        """Its only class is the mean of a map, and the map is the image's first channel."""

        def feature_maps(self, x):
            return [x[:, :1]]

        def forward(self, x):
            return self.feature_maps(x)[0].mean((2, 3))

    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, 3, 1] = 2.0
    logits, rests_on = grad_cam(Corner(), image)
    assert logits.item() == approx(2 / 16) and rests_on.argmax() == 13 and rests_on.sum() == 1


def test_a_pipe_is_no_image(trained):
    os.mkfifo("pipe.png")
    with user_error("cannot read pipe.png .*not a regular file"):
        Predictor(trained).pixels("pipe.png", (0, 1, 2))


def test_a_file_of_more_than_a_gibibyte_is_not_read(trained):
    with open("huge.png", "wb") as file:  # it has no blocks on the disk
        file.truncate(LARGEST_IMAGE + 1)
    with user_error("huge.png.* bytes"):
        Predictor(trained).pixels("huge.png", (0, 1, 2))


def test_two_pictures_of_one_name_are_refused(trained, tiny_dataset, tmp_path):
    source = next(tiny_dataset.rglob("*.JPEG"))
    files = [tmp_path / name for name in ("a/x.jpg", "a/x.jpeg", "b/x.jpg")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        shutil.copy(source, file)
    named = [file.relative_to(tmp_path) for file in files]
    with user_error(
        "--picture of a/x.jpeg out/a-x.png would replace the output of --picture of a/x.jpg: .* rename an image"
    ):
        answer(trained, *named, "--picture out")


def test_pictures_of_files_with_equal_names_and_folders_are_all_drawn(trained, tiny_dataset):
    image = (tiny_dataset / "images" / "n00000001" / "n00000001_0.JPEG").read_bytes()
    files = [Path(name) for name in ("one/c/a.jpg", "two/c/a.jpg", "two/c/b.jpg")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    answer(trained, *files, "--picture pictures")
    assert sorted(path.name for path in Path("pictures").iterdir()) == [
        "one-c-a.png",
        "two-c-a.png",
        "two-c-b.png",
    ]


def test_files_that_macos_adds_are_not_read(trained, tiny_dataset, stdout):
    folder = tiny_dataset / "images" / "n00000001"
    (folder / "._n00000001_0.JPEG").write_bytes(b"\0\5\26\7")
    answer(trained, folder)
    assert len(stdout().splitlines()) == 8


def test_a_file_name_cannot_command_the_terminal(trained, tiny_dataset, capsys):
    image = tiny_dataset / "images" / "n00000001" / "n00000001_0.JPEG"
    good, bad = Path("good\x1b[2J.jpg"), Path("bad\x1b[2J.jpg")
    good.write_bytes(image.read_bytes())
    bad.write_bytes(b"none")
    with user_error("1 of 2 images"):
        answer(trained, good, bad)
    shown = capsys.readouterr()
    assert "good\\x1b[2J.jpg: " in shown.out and "bad\\x1b[2J.jpg" in shown.err
    assert "\x1b" not in shown.out + shown.err
    latin = Path(os.fsdecode(b"caf\xe9.jpg"))
    shutil.copy(image, latin)
    cli(lambda: answer(trained, latin, "--csv out.csv --picture out.png"))
    assert (
        b"\ncaf\xe9.jpg,1," in Path("out.csv").read_bytes() and "caf\\udce9.jpg: " in capsys.readouterr().out
    )
