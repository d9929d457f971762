"""Fetch an archive over HTTP, resuming where it was cut off, and unpack a zip that nobody vouches for."""
from __future__ import annotations

import http.client
import os
import re
import shutil
import stat
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from data.lists import read_lists
from utils import UserError

BLOCK = 1 << 18   # bytes a read
ATTEMPTS = 5      # connections before giving up; each resumes the last


def download(url: str, folder: str | Path, progress: bool = True) -> Path:
    """Fetch the data set's zip at `url` into `folder` and check its lists; `<name>.part` holds it until then.

    Returns:
        path of the zip; one that is there already is checked and kept.

    Raises:
        UserError: no network, an HTTP error, a cut connection, a full disk, or an archive that is no data
            set.
    """
    address = urllib.parse.urlsplit(url)
    name = os.path.basename(urllib.parse.unquote(address.path))
    if address.scheme not in ("http", "https") or not name:
        raise UserError(f"{url!r} names no file to fetch over http or https")
    target, part = Path(folder) / name, Path(folder) / f"{name}.part"
    if not target.exists():
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(ATTEMPTS):
                if _fetch(url, part, progress):
                    break
            else:
                raise UserError(f"the connection to {address.netloc} was cut {ATTEMPTS} times; run the "
                                f"command again to go on from {part.stat().st_size:,} bytes")
        # HTTP errors and dead networks are OSErrors too
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"cannot download {url}: {error}. Run the command again to go on where it "
                            f"stopped, or download the file by hand and put it in {Path(folder)}/") from error
        if not zipfile.is_zipfile(part):
            part.unlink()
            raise UserError(f"{url} gave no readable zip (a web page, or a file that changed while it was "
                            f"resumed); it was removed: run the command again, or check the address in a "
                            f"browser")
        os.replace(part, target)
    lists = read_lists(target)
    if lists.name != "course":
        print(f"warning: the lists in {target} are not the course's (sha256 differs); results do not compare")
    return target


def _fetch(url: str, part: Path, progress: bool) -> bool:
    """Append to `part` from where it ends; True when it is whole, False when the connection was cut."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        whole = error.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
        if not whole:   # longer than the file on the server: not the same file
            part.unlink()
        return whole
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range",
                                                                  "").startswith(f"bytes {have}-")
        have = have if resumed else 0   # a server without Range sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total and total - have > free:
            raise UserError(f"the rest of {url} needs {(total - have) / 1e9:.2f} GB, but {part.parent} has "
                            f"{free / 1e9:.2f} GB free; free disk space or name another folder")
        with open(part, "ab" if resumed else "wb") as out, \
                tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True,
                     disable=not progress) as bar:
            try:
                while block := response.read(BLOCK):
                    out.write(block)
                    bar.update(len(block))
            except (http.client.HTTPException, ConnectionError, TimeoutError):
                return False
    return total is None or part.stat().st_size >= total


def _check_member(info: zipfile.ZipInfo, archive: Path) -> None:
    """Refuse a member that would be written outside the folder, or is no plain file.

    Raises:
        UserError: naming it.
    """
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:",
                                                                        name) or ".." in name.split("/"):
        raise UserError(f"{archive} holds the unsafe path {name!r}; nothing was unpacked. "
                        "Get the archive from its source.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive} holds {name!r}, a link or special file; nothing was unpacked. "
                        "Get the archive from its source.")


def unpack(archive: str | Path, folder: str | Path, progress: bool = True) -> Path:
    """Unpack a zip into `folder`; a file of the right size that is there already is kept, so it can be
    resumed.

    Raises:
        UserError: damaged zip, unsafe member, or too little disk space for the sizes it declares.
    """
    archive, folder = Path(archive), Path(folder).resolve()
    try:
        with zipfile.ZipFile(archive) as source:
            members = [info for info in source.infolist() if not info.is_dir()]
            for info in source.infolist():
                _check_member(info, archive)
            missing = [info for info in members if not _is_there(folder / info.filename, info.file_size)]
            folder.mkdir(parents=True, exist_ok=True)
            need, free = sum(info.file_size for info in missing), shutil.disk_usage(folder).free
            if need > free:
                raise UserError(f"{archive} unpacks to {need / 1e9:.2f} GB, but {folder} has "
                                f"{free / 1e9:.2f} GB free; nothing was unpacked. A zip can be used as it "
                                f"is, without unpacking.")
            for parent in {(folder / info.filename).parent for info in missing}:
                if not parent.resolve().is_relative_to(folder):   # through a link that was there before
                    raise UserError(f"{parent} leads out of {folder}; unpack into an empty folder")
                parent.mkdir(parents=True, exist_ok=True)
            for info in tqdm(missing, desc="unpacking", unit=" files", disable=not progress):
                # reads file_size at most
                with source.open(info) as data, open(folder / info.filename, "wb") as out:
                    shutil.copyfileobj(data, out)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"cannot unpack {archive}: {error}. Free disk space, or download the archive again; "
                        "files already unpacked are kept.") from error
    return folder


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
