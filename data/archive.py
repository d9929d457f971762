"""Fetch an archive over HTTP and continue where a download was cut off. The zip is not unpacked."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from data.lists import read_lists
from data.source import BROKEN
from utils import UserError, progress_bar

BLOCK = 1 << 18  # bytes per read
ATTEMPTS = 5  # number of connections before giving up; each continues the download


def download(url: str, folder: str | Path) -> Path:
    """Fetch the data set's zip at `url` into `folder` and check its lists.

    Until the checks are done, the file is called `<name>.part`. A zip that is there already is only checked.

    Returns:
        path of the zip.

    Raises:
        UserError: the download fails, the disk is full, or the archive is not a data set.
    """
    address = urllib.parse.urlsplit(url)
    name = os.path.basename(urllib.parse.unquote(address.path))
    if address.scheme not in ("http", "https") or name in ("", ".", ".."):
        raise UserError(f"{url!r} is not the http or https address of a file; give such an address")
    target, part = Path(folder) / name, Path(folder) / f"{name}.part"
    if not target.exists():
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(ATTEMPTS):
                if _fetch(url, part):
                    break
            else:
                raise UserError(
                    f"the connection to {address.netloc} was cut {ATTEMPTS} times; run the "
                    f"command again to continue from {part.stat().st_size:,} bytes"
                )
        # HTTP errors and dead networks are OSErrors too
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"cannot download {url}: {error}. Run the command again to continue where it "
                f"stopped, or download the file by hand and put it in {Path(folder)}/"
            ) from error
        _check(url, part)
        os.replace(part, target)
    lists = read_lists(target)
    if lists.name != "course":
        print(
            f"warning: the lists in {target} are not the course's (sha256 differs); results are not comparable"
        )
    return target


def _check(url: str, part: Path) -> None:
    """Compare the checksums of all files in the zip, and read its lists.

    Raises:
        UserError: the zip is damaged or not a data set. Then the zip is removed.
    """
    try:
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()
        if damaged:
            raise UserError(
                f"its member {damaged} is damaged; perhaps the download was appended to a part of another file"
            )
        read_lists(part)
    except (UserError, *BROKEN) as error:
        part.unlink()
        raise UserError(
            f"the file from {url} was removed: {error}. Run the command again, or check the address"
        ) from error


def _fetch(url: str, part: Path) -> bool:
    """Continue the download of `part`. Return True if it is complete, False if the connection was cut."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        whole = error.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
        if not whole:  # `part` is longer than the file on the server, so it belongs to another file
            part.unlink()
        return whole
    with response:
        resumed = response.status == 206
        have = have if resumed else 0  # a server without Range sends the whole file
        total = None if response.length is None else have + response.length
        with (
            open(part, "ab" if resumed else "wb") as out,
            progress_bar(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True) as bar,
        ):
            try:
                while block := response.read(BLOCK):
                    out.write(block)
                    bar.update(len(block))
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                return False
    return total is None or part.stat().st_size >= total
