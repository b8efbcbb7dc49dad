"""The file that describes a guest to other processes, with any content."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pytest_xhyve.host.runs import GuestRecord, live_guests

KEYS = [*GuestRecord.__slots__]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.sampled_from(KEYS) | st.text(), children),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "name": "g",
    "image": "tiny",
    "image_disk": "/d",
    "uuid": "u",
    "hypervisor": "qemu",
    "pid": 1,
    "owner": 1,
    "started": 1.0,
}


@given(
    st.one_of(
        values.map(json.dumps),
        st.text(),
        st.builds(lambda more: json.dumps(GOOD | more), st.dictionaries(st.sampled_from(KEYS), values)),
    )
)
@example(json.dumps([]))
@example(json.dumps(GOOD | {"ssh": None}))
@example(json.dumps(GOOD | {"pid": "x"}))
@example(json.dumps(GOOD | {"pid": 1 << 80}))
@example(json.dumps(GOOD | {"pid": -1}))
def test_any_content(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run", "g", "guest.json")
        path.parent.mkdir(parents=True)
        path.write_text(text, errors="replace")
        GuestRecord.read(path)
        for guest in live_guests(Path(folder)):
            assert isinstance(guest.pid, int)
