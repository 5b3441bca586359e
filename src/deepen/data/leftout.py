"""What in a folder is not taken for a picture, for whatever reason: counted, and said in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from deepen.data.decode import EXTENSIONS, HEIC

LEFTOVERS = frozenset(
    {
        "@eadir",  # Synology's thumbnails
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@tmp",
        "#recycle",
        "#snapshot",
        "__macosx",  # macOS's archiver
        "icon\r",  # Finder
        "network trash folder",  # Apple's file server
        "temporary items",
        "lost+found",  # ext4
        "thumbs.db",  # Windows
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "picasa.ini",
        "zbthumbnail.info",
        "__pycache__",
    }
)
"""Lower-case names that file managers, file servers, systems and archivers leave behind."""

LOOSE = "picture|in no class folder"
HIDDEN = "file|hidden, or of file managers, servers and archives"
BESIDE = "file|beside the splits"
NOWHERE = "link|leading nowhere"
LOOP = "link|back to a folder above"
UNREADABLE = "folder|that cannot be read"
NO_ROW = "picture|without a row in the table"
NO_LABEL = "picture|without a label in the table"
BESIDE_SHARDS = "picture|beside Parquet files"
NO_SPLIT = "picture|in no split"

_NAMES_SHOWN = 3


def no_persons(name: str) -> bool:
    """Whether a file or folder of this name is nothing that a person put there.

    Such are the hidden ones (.git, .DS_Store, ._1.jpg, .Trash-1000) and `LEFTOVERS`.
    """
    return name.startswith(".") or name.lower() in LEFTOVERS


class LeftOut:
    """Counts what is left out: files in their place by their ending, all else by a reason."""

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._names: defaultdict[str, dict[str, None]] = defaultdict(dict)  # ordered, once each

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Leave out `count` of what the reason counts, and say where."""
        if count:
            self.reasons[reason] += count
            self._names[reason][name] = None

    def counts(self) -> dict[str, int]:
        """By the ending or the reason."""
        reasons = {reason.partition("|")[2]: count for reason, count in self.reasons.items()}
        return dict(sorted((*self.endings.items(), *reasons.items())))

    def notes(self) -> list[str]:
        """A line for each reason."""
        lines = [f"not taken for pictures: {in_words(self.endings)}"] if self.endings else []
        for reason, count in self.reasons.items():
            noun, _, why = reason.partition("|")
            where = some(list(self._names[reason]))
            lines.append(f"left out: {count:,} {noun}{'' if count == 1 else 's'} {why}: {where}")
        return lines


def in_words(endings: Mapping[str, int]) -> str:
    """Counts of endings, and what would read them: `2 .txt, 1 without ending`."""
    unread = HEIC - EXTENSIONS
    return ", ".join(
        f"{count:,} {ending}" + (" (pip install 'deepen[heic]')" if ending in unread else "")
        for ending, count in sorted(endings.items())
    )


def some(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
