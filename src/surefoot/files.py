"""Writing a file so that no reader ever finds half of it."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a file whole or not at all; a pipe or a device is simply written to.

    Missing folders are made. What UTF-8 cannot hold (half a surrogate pair) becomes an escape.
    `sync` waits until the disk has it. Raises OSError as `open` does.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8", errors="backslashreplace")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(draft, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
