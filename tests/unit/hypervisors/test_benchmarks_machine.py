"""What benchmarks compare the plugin with has the plugin's machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve.hypervisors.qemu.driver import Qemu

TOP = Path(__file__).parents[3]


def test_emulation_is_the_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOP))
    from benchmarks.floor import acceleration

    qemu = Qemu(executable=None, accel="tcg", cache=tmp_path)
    assert qemu._acceleration_options() == ["-accel", acceleration("tcg")]
