"""How the program that was named is found, and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from surefoot.script import ScriptError, locate


class TestLocate:
    """A program that is not there: the message says what was meant."""

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "train.py").write_text("")
        (tmp_path / "project").mkdir()
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("target", "hint"),
        [
            ("trian.py", "Did you mean train.py?"),
            ("train", "Did you mean train.py?"),
            ("project.models.gpt", "surefoot run -m project.models.gpt"),
            ("nowhere/train.py", "There is no folder nowhere"),
            ("zzz.py", "surefoot run train.py"),
        ],
    )
    def test_hint(self, target: str, hint: str) -> None:
        with pytest.raises(ScriptError) as caught:
            locate(target)
        first, second = str(caught.value).splitlines()
        absolute = os.path.join(os.getcwd(), target)
        assert first == f"can't open file {absolute!r}: [Errno 2] No such file or directory"
        assert hint in second

    def test_unreadable(self) -> None:
        with pytest.raises(ScriptError, match=r"\[Errno 20\] Not a directory"):
            locate("train.py/main.py")

    def test_no_hint_for_a_file_that_is_there(self) -> None:
        assert locate("train.py").path == os.path.join(os.getcwd(), "train.py")
