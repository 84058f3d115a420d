from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from finetune import registry
from finetune.errors import ConfigError
from finetune.registry import Registry


def test_listing_does_not_import_the_target() -> None:
    code = (
        "import sys\nfrom finetune.registry import Registry\nr = Registry('x')\nr.add('t', 'torch:nn', 'nets')\n"
        "assert r.names() == ['t'] and [e.summary for e in r] == ['nets']\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_duplicates_raise() -> None:
    table: Registry[Any] = Registry("solver")
    table.add("a", "math:sqrt", "root")
    with pytest.raises(ValueError, match="solver 'a' is registered twice"):
        table.add("a", "math:exp", "other")


def test_unknown_names_offer_the_nearest() -> None:
    table: Registry[Any] = Registry("strategy")
    table.add("linear", "math:sqrt", "")
    with pytest.raises(
        ConfigError, match=r'strategy must be one of linear. Got .linaer. instead. Did you mean "linear"'
    ):
        table.get("linaer")


def test_plugins_join_their_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("strategy.mine", "math:sqrt", "finetune.plugins"),
        EntryPoint("export.x", "math:exp", "finetune.plugins"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    table: Registry[Any] = Registry("strategy")
    assert table.names() == ["mine"]
    assert table.get("mine")(4) == 2
