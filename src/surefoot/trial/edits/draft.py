"""The files that a remedy changes, opened as they are needed."""

from __future__ import annotations

import ast
import fnmatch

from surefoot.trial.edits.text import Text, Unplaced, called
from surefoot.trial.source import Place, Sites, yours

_MAKERS = ("from_pretrained", "from_config", "create_model", "get_model")


class Draft:
    """Changes to the files of a training. Each edit reads `sites` and changes `text(file)`."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.texts: dict[str, Text] = {}

    def text(self, file: str) -> Text:
        """A file to be changed; Unplaced if it is not the user's or has changed since the run."""
        if not yours(file):
            raise Unplaced(f"{file} is not the user's own")
        if file not in self.texts:
            self.texts[file] = Text(file, self.sites.digests.get(file, ""))
        return self.texts[file]

    def place(self, name: str) -> Place:
        """Where one of the `Sites.calls` is."""
        if name not in self.sites.calls:
            raise Unplaced(f"the one place of {name} is not known")
        return self.sites.calls[name]

    def call(self, name: str) -> tuple[Text, ast.Call]:
        """One of the `Sites.calls`, in its file."""
        place = self.place(name)
        text = self.text(place.file)
        kinds = {"model": self.sites.classes.get("", ""), "optimizer": self.sites.optimizer}
        return text, text.call(place, kinds.get(name, name))

    def optimizer(self) -> tuple[Text, ast.Call]:
        """The call that builds the optimizer itself."""
        if not self.place("optimizer").direct:
            raise Unplaced("a library builds the optimizer")
        return self.call("optimizer")

    def model(self) -> tuple[Text, ast.Call]:
        """The call that gives the model: its class, or a function known for giving one."""
        text, call = self.call("model")
        if not self.place("model").direct and called(call) not in _MAKERS:
            raise Unplaced("a library builds the model")
        return text, call

    def named(self, target: str | None) -> list[str]:
        """The modules that a target names: a name, all below it, or a pattern."""
        return [name for name in self.sites.classes if names(target, name)]

    def last(self) -> str:
        """The model's last leaf, as registered: the output as a rule."""
        every = list(self.sites.classes)
        return next(
            (n for n in reversed(every) if not any(m.startswith(f"{n}.") for m in every)), ""
        )


def names(target: str | None, name: str) -> bool:
    """Whether a target names a module, as for `Subject.modules`."""
    if target in (None, "", "*"):
        return True
    assert target is not None
    return name == target or name.startswith(f"{target}.") or fnmatch.fnmatchcase(name, target)
