"""A winning remedy as a patch against the user's own source, for `git apply` and `patch -p1`.

Only where the source says plainly what belongs where. A file that has changed since the run, a
library's line, a cell of a notebook or several lines that may be meant have no patch: better none
than a wrong one, and the remedy's code is there to paste.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.findings import Remedy
from surefoot.trial.edits import edit_of
from surefoot.trial.edits.draft import Draft
from surefoot.trial.edits.text import Unplaced
from surefoot.trial.source import Sites


@dataclass(frozen=True, slots=True)
class Patch:
    """text: the unified diff, whose line ends are those of the files (write it as bytes of UTF-8);
    files: what it changes, relative to `root`; edits: at how many places."""

    text: str
    files: tuple[str, ...]
    edits: int
    root: str = ""

    def write(self, path: str | Path) -> None:
        """Save it; text mode would change line ends."""
        Path(path).write_bytes(self.text.encode("utf-8"))


def patch(
    remedy: Remedy, sites: Sites | Mapping[str, Any], root: str | Path | None = None
) -> Patch | None:
    """The remedy as a patch, None where there is none.

    sites: of the run, or as `Sites.to_json` gives them. root: the folder that the diff's paths are
    relative to; if None the current one, or what the files share.
    """
    if not isinstance(sites, Sites):
        sites = Sites.from_json(dict(sites))
    edit = edit_of(remedy.remedy)
    if edit is None:
        return None
    draft = Draft(sites)
    try:
        edit(draft, remedy)
        changed = {
            text.path: (text.bom + text.data, text.result())
            for text in draft.texts.values()
            if text.edits
        }
    except (Unplaced, RecursionError):
        return None
    changed = {path: pair for path, pair in changed.items() if pair[0] != pair[1]}
    if not changed:
        return None
    folder = _root(list(changed), root)
    if folder is None:
        return None
    pieces = [
        _diff(_relative(path, folder), old, new) for path, (old, new) in sorted(changed.items())
    ]
    files = tuple(_relative(path, folder) for path in sorted(changed))
    return Patch("".join(pieces), files, sum(t.edits for t in draft.texts.values()), folder)


def _root(paths: list[str], root: str | Path | None) -> str | None:
    """The folder to be relative to; None if a file is not below the one that was asked for."""
    folder = os.path.realpath(root if root is not None else ".")
    real = [os.path.realpath(path) for path in paths]
    if all(path.startswith(folder.rstrip(os.sep) + os.sep) for path in real):
        return folder
    return None if root is not None else os.path.commonpath([os.path.dirname(p) for p in real])


def _relative(path: str, folder: str) -> str:
    return os.path.relpath(os.path.realpath(path), folder).replace(os.sep, "/")


def _diff(name: str, old: bytes, new: bytes) -> str:
    """The unified diff of two versions; says where a file has no newline at its end."""
    end = "\t" if " " in name else ""  # so that patch knows where the name ends
    rows = difflib.unified_diff(_rows(old), _rows(new), f"a/{name}{end}", f"b/{name}{end}")
    return "".join(
        row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in rows
    )


def _rows(data: bytes) -> list[str]:
    """The lines as patch knows them: a form feed or a lone CR ends none."""
    rows = data.decode("utf-8").split("\n")
    return [row + "\n" for row in rows[:-1]] + ([rows[-1]] if rows[-1] else [])
