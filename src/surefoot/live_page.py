"""`surefoot run --view`: a page of the run beside it, without a trace in the script's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from surefoot.record.folder import this_process
from surefoot.voice import Voice

_PATIENCE = 0.5  # seconds between two looks at whether the terminal is this process's again
# What a user has set for the script may ask of any other Python what it cannot give.
_NOT_ITS = ("PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONPROFILEIMPORTTIME")


def open_page(folder: Path, voice: Voice) -> None:
    """Have the run in a folder served until this process has gone; say where, once it answers.

    Raises OSError where no process can be started.
    """
    words = [str(folder.parent.absolute()), folder.name, json.dumps(this_process())]
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_ITS}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "surefoot.page.beside", *words],
        env={**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    # It has put the server into a child of its own, and ends at once. The script may wait for any
    # child that it has, and must not find one here.
    process.wait()
    threading.Thread(
        target=_tell, args=[process.stdout, voice], name="surefoot-page", daemon=True
    ).start()


def _tell(answer: IO[str], voice: Voice) -> None:
    with answer:
        address = answer.readline().strip()
    while voice.terminal and not voice.in_front():
        time.sleep(_PATIENCE)
    if address:
        voice.interject(f"live page: {address} (it ends with the run)")
    else:
        voice.interject("there is no live page: its process failed. Next: surefoot view")
