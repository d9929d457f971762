"""Read and check a data set in the course's layout.

The lists train.txt, val.txt and test.txt have lines `images/<class>/<name>.JPEG <label>`.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from channelset import Channels
from data.files import LARGEST_IMAGE, LARGEST_LIST
from data.source import BROKEN, FolderSource, ZipSource, open_source
from storage.files import home_path
from utils import UserError, check_name

LIST_FILES = {"train": ("train.txt",), "val": ("val.txt", "validation.txt"), "test": ("test.txt",)}
COURSE_SHA256 = {  # of the three list files as the course gives them, with CRLF line ends
    "train": "55637f74ecd549614a850107af88e92bff8430ca90eb0455c60ddb9098a748cc",
    "val": "5b9f22e2f0e18e04767b22eb736115ffcdb44d72133bdb52530d9a694128c98d",
    "test": "e2bf6a6bfc2a97ee102984e40ed35fae098aa9629a4284a475835c3e7b3072b4",
}
BANDS = "bands.txt"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # some terminals obey them as commands
# names that already mean a set of channels, a column of the predictions, or an empty cell of a table
NO_BANDS = {"all", "every", "image", "label", "na", "n/a", "none", "null", "<na>", "#n/a", "#na"}
RGB = Channels("RGB")
LAYOUT = "expected train.txt, val.txt (or validation.txt) and test.txt beside a folder images/"


@dataclass(frozen=True)
class Split:
    """A list file that was read: N image paths, labels (N,) int64, line numbers from 1, and its name for messages."""

    paths: list[str]
    labels: np.ndarray
    lines: list[int]
    name: str = ""

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """Yield path, label and line number of each image."""
        return zip(self.paths, self.labels.tolist(), self.lines, strict=True)


@dataclass(frozen=True)
class ImageLists:
    """The three lists of a data set, and where its images are."""

    tree: FolderSource | ZipSource  # the open folder or zip
    prefix: str  # stands before each listed path inside `tree`, such as "" or "images/"
    splits: dict[str, Split]  # train, val, test
    class_names: list[str]  # by label
    name: str  # "course", or the name of the folder or zip
    digest: str  # sha256 of the lists; the same for LF and CRLF, and for a folder and a zip
    channels: Channels = RGB  # channels of each image: from bands.txt, or RGB if there is no such file

    @property
    def source(self) -> Path:
        """Return the path of the folder or zip."""
        return self.tree.path

    @property
    def has_bands(self) -> bool:
        """Check whether the data set has a bands.txt."""
        return self.channels is not RGB

    @property
    def paths(self) -> list[str]:
        """Return the paths of all three lists."""
        return [path for split in self.splits.values() for path in split.paths]

    def read(self, path: str) -> bytes:
        """Return the bytes of the image listed as `path`; raise an error of `BROKEN` if that is not possible."""
        return self.tree.read(self.prefix + path, LARGEST_IMAGE)

    def facts(self, path: str):
        """Return size and checksum (zip) or size and times (folder) of an image; None if it is missing."""
        return self.tree.facts(self.prefix + path)


def normal_path(path: str) -> str:
    """Return the path with single slashes and without "." parts, so that equal paths are equal texts."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(part for i, part in enumerate(parts) if part not in ("", ".") or (i == 0 and part == ""))


def parse_list(data: bytes, name: str) -> Split:
    """Parse one list file; `name` is for messages.

    Raises:
        UserError: the text is not UTF-8, the list is empty, or a line is not `<path> <label>`.
    """
    paths, labels, lines = [], [], []
    text = _as_text(data, name).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.rsplit(None, 1)  # split from the right, since a path may hold spaces
        if not words:
            continue
        if len(words) == 1:
            raise UserError(f"{name}:{number}: no label in {line.strip()!r}; write `<path> <label>`")
        path, label = normal_path(words[0].strip()), words[1]
        if not re.fullmatch(r"[0-9]{1,6}", label):
            raise UserError(
                f"{name}:{number}: label {label[:20]!r} is not a whole number of at most six digits; write `<path> "
                f"<label>`, where labels count 0, 1, 2, ..."
            )
        if CONTROL.search(path):
            raise UserError(f"{name}:{number}: {path!r} holds a control character; rename that file")
        if not path or path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in path.split("/"):
            raise UserError(
                f"{name}:{number}: {words[0].strip()!r} names no file in the data set; write a relative path without .."
            )
        paths.append(path)
        labels.append(int(label))
        lines.append(number)
    if not paths:
        raise UserError(f"{name} is empty; it needs a line `<path> <label>` for each image")
    return Split(paths, np.array(labels, np.int64), lines, name)


def _as_text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text ({error}); save it again as UTF-8") from error


def parse_bands(data: bytes, name: str) -> Channels:
    """Parse bands.txt. Each line names a channel, in the order of the images, and optionally its wavelength in nm.

    Raises:
        UserError: the text is not UTF-8, or a line is wrong; the message names it.
    """
    bands = {}
    for number, line in enumerate(_as_text(data, name).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            wavelength = float(words[1]) if len(words) > 1 else None
        except ValueError:
            wavelength = math.nan
        if (
            len(words) > 2
            or wavelength is not None
            and not 1 <= wavelength <= 1e9
            or words[0] in bands
            or "," in words[0]
            or CONTROL.search(words[0])
        ):
            raise UserError(
                f"{name}:{number}: {line.strip()!r} is not `<name> <wavelength in nm>`. Each name must be different "
                f"and have no comma; the wavelength may be left out"
            )
        if means_something_else(words[0], wavelength):
            raise UserError(
                f"{name}:{number}: the channel name {words[0]!r} already has a meaning: 'all', 'all-B10', numbers and "
                f"wavelengths such as '665nm' name sets of channels; give it another name"
            )
        bands[words[0]] = wavelength
    if not bands:
        raise UserError(f"{name} is empty; it needs a line `<name> <wavelength in nm>` for each channel")
    return Channels(bands)


def bands_text(bands: Mapping[str, float | None]) -> str:
    """Return the text of a bands.txt. `bands` maps each channel's name to its wavelength in nm, or to None."""
    return "".join(f"{name} {nm}\n" if nm else f"{name}\n" for name, nm in bands.items())


def means_something_else(band: str, wavelength: float | None) -> bool:
    """Check whether the name of a band already means a set of channels, another wavelength, or a number."""
    number = band.lower().removesuffix("nm")
    try:
        value = float(number)
    except ValueError:
        return band.lower() in NO_BANDS or band.lower().startswith("all-")
    return number == band.lower() or value != wavelength  # "665nm 665" has one meaning only


def check_splits(splits: dict[str, Split], repeats: bool = False) -> None:
    """Check the labels of all splits, and that each image is listed once.

    The labels of train must be 0..K-1, K at least 2. val and test may only have labels of train.

    Args:
        repeats: whether a list may hold a line twice.

    Raises:
        UserError: a line is wrong; the message names the list and the line.
    """
    classes = set(splits["train"].labels.tolist())
    if classes == {0}:
        raise UserError(
            f"{splits['train'].name} has one class only, so every answer would be right: add another class"
        )
    seen = {}
    for key, split in splits.items():
        for path, label, number in split.rows():
            if key == "train" and label >= len(classes):
                gap = min(set(range(label)) - classes)
                raise UserError(
                    f"{split.name}:{number}: label {label} is out of range: train has "
                    f"{len(classes)} labels, so they must be 0..{len(classes) - 1}, and {gap} is "
                    f"missing; renumber them"
                )
            if label not in classes:
                raise UserError(
                    f"{split.name}:{number}: class {label} has no image in {splits['train'].name} "
                    f"(labels 0..{len(classes) - 1}); remove the line or add training images"
                )
            first = seen.setdefault(path, (key, label, number))
            if first[:2] != (key, label) or (first[2] != number and not repeats):
                raise UserError(
                    f"{split.name}:{number}: {path} with label {label} is also in {splits[first[0]].name}:{first[2]}, "
                    f"with label {first[1]}: an image may be listed only once; remove one of the lines"
                )


def check_folders(splits: dict[str, Split]) -> None:
    """If train has one folder for each class, check that a class's folder has the same label in all lists.

    The folders train/CLASS and val/CLASS belong together, unless two classes have folders of the same name.

    Raises:
        UserError: an image in val or test has another label than its folder in train; the message names the line.
    """
    classes = _class_folders(splits["train"])
    last = {folder.rpartition("/")[2]: label for folder, label in classes.items()}
    for split in splits.values():
        for path, label, number in split.rows():
            folder = path.rpartition("/")[0]
            name = folder.rpartition("/")[2]
            expected = last.get(name, label) if len(last) == len(classes) else classes.get(folder, label)
            if expected != label:
                raise UserError(
                    f"{split.name}:{number}: {path} has label {label}, but in {splits['train'].name} the images of "
                    f"{name} have label {expected}: number the classes equally in all lists"
                )


def read_lists(source: str | Path, name: str | None = None) -> ImageLists:
    """Read and check the lists of a folder or zip, and check that every image exists. No image is decoded.

    The lists may lie in `source` or up to two folders deeper, such as in images/. images/ may hold a second images/.

    Args:
        source: a folder or zip.
        name: name of the data set (default: the name of the folder or zip).

    Raises:
        UserError: the name of the data set cannot be used in file names; or a list or an image is wrong. Then the
            message names list, line and remedy.
    """
    name, source = name or name_of(source), home_path(source).resolve()
    tree = open_source(source)
    roots = tree.list_roots()
    if not roots:
        raise UserError(
            f"no train.txt in {source}, nor one or two folders below it; {LAYOUT}. "
            f"The source holds: {', '.join(tree.top()[:6]) or 'nothing'}. "
            "For a folder of class folders, python -m data.prepare lists FOLDER writes the lists"
        )
    if len(roots) > 1:
        raise UserError(
            f"{source} holds several lists: {', '.join(root + 'train.txt' for root in roots)}; "
            "name the folder of one of them"
        )
    splits = {}
    for key, choices in LIST_FILES.items():
        files = [roots[0] + choice for choice in choices if roots[0] + choice in tree]
        if not files:
            raise UserError(f"no {' or '.join(choices)} beside {source / roots[0] / 'train.txt'}; {LAYOUT}")
        data, *others = (_read(tree, file) for file in files)
        if any(other != data for other in others):
            raise UserError(
                f"{source / roots[0]} holds {' and '.join(choices)}, which differ: remove one of them"
            )
        splits[key] = parse_list(data, str(source / files[0]))
    sha256 = {key: _sha256(split) for key, split in splits.items()}
    check_splits(splits, repeats=sha256 == COURSE_SHA256)  # the course's lists are used as they are
    if sha256 != COURSE_SHA256:
        check_folders(splits)
    prefix = _locate_images(tree, roots[0], splits)
    bands, channels = roots[0] + BANDS, RGB
    if bands in tree:
        channels = parse_bands(_read(tree, bands), str(tree.path / bands))
    facts = sorted(sha256.items())
    if channels is not RGB:
        facts.append(repr(channels))
    name = "course" if sha256 == COURSE_SHA256 else name
    check_name(name, "the data set's folder or zip")
    return ImageLists(
        tree,
        prefix,
        splits,
        class_names(splits["train"]),
        name,
        hashlib.sha256(repr(facts).encode()).hexdigest(),
        channels,
    )


def name_of(source: str | Path) -> str:
    """Return the name of a folder, or of a zip without its ending. A link has the name of the link itself."""
    path = home_path(source).absolute()
    path = path.resolve() if path.name == ".." else path
    return path.stem if path.is_file() else path.name  # a folder may be called photos.v2


def _read(tree, file: str) -> bytes:
    """Read a list or a bands.txt of at most `LARGEST_LIST` bytes.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return tree.read(file, LARGEST_LIST)
    except BROKEN as error:
        raise UserError(f"cannot read {file} in {tree.path} ({error}); get the data set again") from error


def _sha256(split: Split) -> str:
    """Return the sha256 of the list as the course writes it, so that line ends and blank lines do not matter."""
    lines = (f"{path} {label}\r\n" for path, label, _ in split.rows())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _locate_images(tree, root: str, splits: dict[str, Split]) -> str:
    """Return the prefix with which the listed images exist: beside the lists, a folder up, or in images/.

    Raises:
        UserError: a listed image does not exist.
    """
    above = "".join(f"{part}/" for part in root.split("/")[:-2]) if root else "../"
    prefixes = [root, above, f"{root}images/"]
    paths = splits["train"].paths
    prefix = max(prefixes, key=lambda prefix: sum(prefix + path in tree for path in paths))
    missing = [
        (path, f"{path} ({split.name}:{number})")
        for split in splits.values()
        for path, _, number in split.rows()
        if prefix + path not in tree
    ]
    if missing:
        total = sum(len(split.paths) for split in splits.values())
        looked = prefixes if len(missing) == total else [prefix]
        first, forms = missing[0][0], ("NFC", "NFD")
        remedy = "Unpack the archive again, or correct the lists."
        if any(folder + unicodedata.normalize(form, first) in tree for folder in looked for form in forms):
            remedy = (
                "The files have these names in another form of Unicode (NFC or NFD): write the lists again."
            )
        raise UserError(
            f"{len(missing)} of {total} listed images do not exist: {'; '.join(text for _, text in missing[:3])}. "
            f"Looked in {', '.join(str(tree.path / folder) for folder in looked)}. {remedy}"
        )
    return prefix


def class_names(split: Split) -> list[str]:
    """Return the names of the classes in a split, by label.

    They are the folder names (wnids) if each class has exactly one folder, which may hold folders. Otherwise they are
    the labels. If two folders have the same name, the names of the folders above them are added.
    """
    depths = range(1, max(path.count("/") for path in split.paths))
    if folders := next(filter(None, (_class_folders(split, depth) for depth in (None, *depths))), {}):
        parts = [folder.split("/") for folder in sorted(folders, key=lambda folder: folders[folder])]
        for count in range(1, max(map(len, parts)) + 1):  # a/outdoor and b/outdoor need two parts
            names = ["/".join(part[-count:]) for part in parts]
            if len(set(names)) == len(names):
                return names
    return [str(label) for label in sorted(set(split.labels.tolist()))]


def _class_folders(split: Split, depth: int | None = None) -> dict[str, int]:
    """Return a dict from the folder of each class to its label.

    It is {} if a class has no folder or several folders, or if two classes share a folder.

    Args:
        depth: number of parts in the path of a class's folder; None: it is the folder that holds the images.
    """
    folders = ("/".join(path.split("/")[:-1][:depth]) for path in split.paths)
    pairs = set(zip(folders, split.labels.tolist()))
    folders = dict(pairs)
    whole = len(folders) == len(pairs) == len(set(folders.values())) and all(folders)
    return folders if whole else {}
