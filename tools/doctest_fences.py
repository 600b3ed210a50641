"""A griffe extension: examples in docstrings become code blocks in the documentation.

Markdown reads `>>> x` as three quotations, one inside the other.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# An example: a first line with a prompt, and all that follows up to an empty line.
EXAMPLE = re.compile(r"^>>> .*(?:\n.*\S.*)*", re.MULTILINE)


def fence(text: str) -> str:
    """`text` with each doctest example in a fenced block.

    >>> print(fence("Adds.\\n\\n>>> 1 + 1\\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)


class DoctestFences(griffe.Extension):
    """Applies `fence` to every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fence(obj.docstring.value)
