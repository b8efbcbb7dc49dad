"""Bad input that is only seen when a guest is made: the test fails, says why and what to do, and nothing is left.

What can be seen before is in tests/unit/plugin/test_preflight.py and tests/unit/cli/test_errors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from chosen import Chosen
from homes import marks_against_templates, share
from mounting import mounted

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.image import Image


def nothing(image: Image) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Bad:
    """One kind of bad input.

    Attributes:
        words: what the message must have, in this order.
        change: keys of tiny's manifest that are changed, and their values.
        room: what the file system of the plugin's folder has room for, where it is one of its own.
        ways: in which ways of running guests it is met; in all where there are none.
        options: those of the run.
        thorough: another kind shows nearly the same.
    """

    words: tuple[str, ...]
    change: Callable[[Image], Mapping[str, Any]] = nothing
    room: str | None = None
    ways: tuple[str, ...] = ()
    options: tuple[str, ...] = field(default=())
    thorough: bool = False


# Under QEMU, a guest refuses the login whether it was restored, or boots, or boots for a template.
LOGIN_WAYS = ("qemu auto", "xhyve cold")

# What a booting guest may refuse is tried again for a while, less long here.
IMPATIENT = ("--xhyve-timeout-factor=0.1", "--xhyve-boot-timeout=1200")

KINDS = {
    "user who may not log in": Bad(
        (
            "E   pytest_xhyve.ConnectionFailed: nobodyatall may not log in at ",
            "user and key in the manifest",
        ),
        lambda _: {"user": "nobodyatall"},
        ways=LOGIN_WAYS,
        options=IMPATIENT,
    ),
    "key that may not log in": Bad(
        ("E   pytest_xhyve.ConnectionFailed: root may not log in at ", "/other-key", "authorized_keys"),
        lambda _: {"key": "other-key"},
        ways=LOGIN_WAYS,
        options=IMPATIENT,
        thorough=True,
    ),
    "another guest's host key": Bad(
        ("ConnectionFailed: ", "shows another host key than the one in the image's manifest", "correct host_keys"),
        lambda _: {"host_keys": [KeyPair.generate().public]},
        ways=LOGIN_WAYS,
    ),
    "altered disk": Bad(
        ("ImageError: ", "was altered: its SHA-256 is ", "changed.yaml states 0000", "repair the file"),
        lambda _: {"sha256": "0" * 64},
    ),
    "no room for the clone": Bad(
        ("cannot clone ", "No space left on device", "KiB are free at ", "`pytest-xhyve prune`", HOME_VARIABLE),
        room="100k",
    ),
    "no room for what the guest writes": Bad(
        ("the hypervisor of guest changed-0 has paused it: ", "no space is left", "`pytest-xhyve prune`"),
        room="300k",
        # A restored guest writes less, and xhyve's clone takes all of its room at once.
        ways=("qemu cold",),
    ),
}


@pytest.fixture(scope="module")
def tiny() -> Image:
    return build_image("tiny", Home.of_user(), print)


@pytest.mark.thorough_under("xhyve")
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=name, marks=[pytest.mark.thorough] * kind.thorough) for name, kind in KINDS.items()],
)
def test_fails_and_says_why(
    kind: Bad, tiny: Image, hypervisor: Chosen, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.ways and f"{hypervisor.name} {hypervisor.start}" not in kind.ways:
        pytest.skip(f"met with {', '.join(kind.ways)} only")
    before = tiny.disk.stat()
    pytester.path.joinpath("other-key").write_bytes(KeyPair.generate().private)
    content = yaml.safe_load(tiny.manifest.read_text())
    content |= {"disk": str(tiny.disk), "kernel": str(tiny.kernel), "initrd": str(tiny.initrd), "key": str(tiny.key)}
    del content["name"], content["made"]
    pytester.path.joinpath("changed.yaml").write_text(yaml.safe_dump(content | dict(kind.change(tiny))))
    pytester.makepyfile("def test_plain(): pass\ndef test_guest(xhyve_guest): pass")
    with ExitStack() as stack:
        folder = pytester.path / "home"
        if kind.room is not None:
            stack.enter_context(mounted(folder, f"size={kind.room}"))
        home = share(Home.of_user(), folder)
        monkeypatch.setenv(HOME_VARIABLE, str(home.path))
        marks = marks_against_templates(home)
        options = [*hypervisor.options, "--xhyve-image=changed.yaml", *kind.options]
        result = pytester.runpytest_subprocess(*options)
        assert not list(home.folder("runs").iterdir())
        # The template is that of all manifests with this disk.
        assert marks_against_templates(home) <= marks
    result.assert_outcomes(passed=1, errors=1)
    said = result.stdout.str()
    assert "Traceback" not in said + result.stderr.str()
    # None of our own lines.
    assert str(Path(build_image.__code__.co_filename).parents[1]) not in said
    at = said.index("ERROR at setup of test_guest")
    for word in kind.words:
        at = said.find(word, at)
        assert at >= 0, (word, said)
    after = tiny.disk.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_mode) == (before.st_size, before.st_mtime_ns, before.st_mode)
