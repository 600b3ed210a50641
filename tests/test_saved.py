"""Hooks on saved tensors, where PyTorch does not say of a tensor whether it lies with one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from surefoot.attach.wrapping import wrap
from surefoot.signals import saved
from surefoot.signals.saved import listen, through_hooks


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(saved, "_TELLS", False)
    enter = saved_tensors_hooks.__enter__
    yield
    assert saved_tensors_hooks.__enter__ is enter and saved._Seen.listeners == 0


def raw() -> object:
    return (torch.ones(2, requires_grad=True) * torch.ones(2)).grad_fn._raw_saved_other  # type: ignore


def test_hooks_that_come_later_are_noticed_until_all_have_left(untold: None) -> None:
    first, second = listen(wrap), listen(wrap)
    assert first is not None and second is not None
    assert not through_hooks(raw()) and not through_hooks([raw()])
    with save_on_cpu():
        pass
    assert through_hooks(raw()) and through_hooks([raw()]) and not through_hooks(None)
    first()
    assert through_hooks(raw())
    second()
    assert not through_hooks(raw())


def test_hooks_that_are_there_already_are_noticed(untold: None) -> None:
    calls: list[str] = []
    with saved_tensors_hooks(calls.append, calls.pop):
        end = listen(wrap)
    assert end is not None and through_hooks(raw())
    end()
    assert calls == []
    assert torch._C._autograd._saved_tensors_hooks_is_enabled()
    with torch.autograd.graph.disable_saved_tensors_hooks("by the script"):
        end = listen(wrap)
        assert end is not None and not through_hooks(raw())
        with pytest.raises(RuntimeError, match="by the script"), save_on_cpu():
            pass
        end()
