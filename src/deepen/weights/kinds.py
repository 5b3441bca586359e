"""What a file or folder is that is called weights and is none."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

# First bytes: what has them, and what to do.
_STARTS = (
    (b"version https://git-lfs.github.com/", "a Git LFS pointer, not the weights; `git lfs pull`"
     " or a download of the file itself gets them"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, of Keras say; PyTorch's and safetensors are read"),
    (b"\x93NUMPY", "a NumPy array; PyTorch's and safetensors are read"),
    (b"GGUF", "a GGUF file; PyTorch's and safetensors are read"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"GIF8", "a picture (GIF)"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
)  # fmt: skip
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")


def misnomer(path: Path) -> str:
    """What a path is instead of weights: "is a web page (HTML)" say; "" where it may be some."""
    try:
        if path.is_dir():
            return _folder(path)
        with open(path, "rb") as file:
            head = file.read(1024)
        if not head:
            return "is empty"
        kind = _by_start(head) or _archive(path, head) or _text(head)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, ValueError):
        return ""
    return f"is {kind}" if kind else ""


def _by_start(head: bytes) -> str:
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith(_HTML):
        return "a web page (HTML), not the weights: the download went wrong"
    return next((words for start, words in _STARTS if head.startswith(start)), "")


def _archive(path: Path, head: bytes) -> str:
    """A zip or tar archive of other things than a checkpoint has."""
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.rpartition("/")[2] in ("data.pkl", "constants.pkl") for name in names):
            return ""
        return f"a zip archive of {len(names):,} files, no checkpoint of PyTorch's; unpack it first"
    if head[257:262] == b"ustar":
        return "a tar archive, no checkpoint of PyTorch's; unpack it first"
    return ""


def _text(head: bytes) -> str:
    """Words; a pickle of the oldest protocol is text too, and has no spaces and longer lines."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    if any(ord(c) < 32 and c not in "\t\r\n\f" for c in text):
        return ""
    if text.lstrip()[:1] in ("{", "["):
        return "a JSON document, not the weights"
    return "text, not the weights" if " " in text.strip() else ""


def _folder(path: Path) -> str:
    """A folder where weights are meant: which of its files are some."""
    have = [name for name in ("best", "last") if (path / f"{name}.safetensors").is_file()]
    if have:
        also = f" (of the last epoch: {path / 'last.safetensors'})" if len(have) == 2 else ""
        return f"is a run folder; its weights are {path / have[0]}.safetensors{also}"
    others = sorted(path.glob("*.safetensors"))
    return f"is a folder; weights are a file, {others[0]} say" if others else "is no weights file"
