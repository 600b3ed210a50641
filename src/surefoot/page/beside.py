"""The page of a run while it goes on, by a process of its own: what `surefoot run --view` starts.

`python -m surefoot.page.beside RUNS NAME PROCESS` prints the run's address and serves the folder of
runs until PROCESS, as `record.folder.this_process` describes it, has gone. Nothing of it is the
script's: it is no child that the script could wait for, has no terminal that could interrupt it,
gives way to the training and sees no GPU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_EVERY = 1.0  # seconds between two looks at whether the run goes on
_LAST = 5.0  # seconds, in which an open page has fetched the last word


def main(arguments: Sequence[str]) -> None:
    """Serve, in a child of this process: this one ends at once."""
    runs, name, process = arguments
    if os.fork():
        os._exit(0)
    os.nice(10)
    threading.Thread(target=_end_with, args=[json.loads(process)], daemon=True).start()
    from surefoot.page.run import linked
    from surefoot.page.server import serve

    serve(Path(runs), browser=False, say=lambda home: _tell(f"{home.rstrip('/')}{linked(name)}"))


def _tell(address: str) -> None:
    """The one line that is said: afterwards nobody reads here, and writing would be an error."""
    print(address, flush=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _end_with(process: dict[str, Any]) -> None:
    while goes_on(process):
        time.sleep(_EVERY)
    time.sleep(_LAST)
    os.kill(os.getpid(), signal.SIGTERM)


def goes_on(process: dict[str, Any]) -> bool:
    """Whether the process still runs; where the kernel does not tell its beginning, by its number.

    >>> from surefoot.record.folder import this_process
    >>> goes_on(this_process()), goes_on(this_process() | {"begun": "1"})
    (True, False)
    """
    from surefoot.record.folder import is_alive

    if process["begun"] is not None:
        return is_alive(json.dumps(process))
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
