"""Build a layer: run the steps of a recipe in a guest of the image below, and keep what they wrote."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.shell import Command
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.layer_file import copy_layer
from pytest_xhyve.images.layers import LayerStore
from pytest_xhyve.images.own_recipe import OwnRecipe
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import (
    BootFailed,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    ImageError,
    XhyveError,
)
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.text import printable

_OUTPUT_LINES = 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# The lists of packages may be missing or old, and to fetch them takes longer than most packages.
_INSTALL = """
set -e
if command -v apt-get; then
    export DEBIAN_FRONTEND=noninteractive
    set -- install -y -q --no-install-recommends "$@"
    ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -q update
    apt-get "$@" 2>/dev/null || { apt-get -q update; apt-get "$@"; }
    # As `apt-get clean` does, which takes longer than many a package.
    rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/* /var/cache/apt/*.bin
elif command -v dnf; then
    dnf -y install "$@"
    dnf clean packages
elif command -v apk; then
    apk add --update-cache "$@"
elif command -v zypper; then
    zypper --non-interactive install "$@"
elif command -v pacman; then
    pacman -Sy --noconfirm "$@"
else
    echo "no package manager found: apt-get, dnf, apk, zypper or pacman" >&2
    exit 1
fi
"""

StartGuest = Callable[[GuestSpec], AbstractContextManager[Guest]]
"""Starts a guest that is removed at the end of the block."""


def build_layer(
    recipe: OwnRecipe, base: Image, home: Home, start: StartGuest, factor: float, report: Callable[[str], None]
) -> Image:
    """The image that *recipe* makes of *base*; it is built if its content, or that of *base*, is not there yet.

    If two processes build the same, the second waits and takes the layer of the first. A build that fails or is killed
    leaves nothing that is taken for a layer.

    Args:
        recipe: a recipe whose files were checked.
        base: the image that it extends.
        home: the cache folder.
        start: starts the guest for the build.
        factor: multiplies the limit of each step.
        report: called with a line for each step.

    Raises:
        ImageError: a step failed, did not end in time, or restarted the guest; the message shows its output.
        XhyveError: the guest does not start.
    """
    store = LayerStore(home)
    key = store.key(base, recipe.content())
    image = store.find(key)
    if image is None:
        with store.making(key, report) as workspace:
            # Another process may have made it meanwhile.
            image = store.find(key)
            if image is None:
                begin = monotonic()
                report(f"building {recipe.name} over {base.name}: this is done once for each content of the recipe")
                image = _Build(recipe, base, factor, report).run(store, key, workspace, start)
                report(f"built {recipe.name} in {monotonic() - begin:.0f} s")
    # These change no layer, so two recipes that differ in them share one.
    return replace(
        image,
        name=recipe.name,
        cpus=recipe.cpus or base.cpus,
        memory=recipe.memory or base.memory,
        password=base.password,
    )


class _Build:
    """One build."""

    def __init__(self, recipe: OwnRecipe, base: Image, factor: float, report: Callable[[str], None]) -> None:
        self._recipe = recipe
        self._base = base
        self._timeout = recipe.timeout * factor
        self._report = report

    def run(self, store: LayerStore, key: str, workspace: Path, start: StartGuest) -> Image:
        """Run all steps, and publish the layer."""
        recipe, base = self._recipe, self._base
        spec = GuestSpec(image=base, name=f"build-{key}", cpus=recipe.cpus, memory=recipe.memory, disk_size=recipe.size)
        with start(spec) as guest:
            boot = self._boot_id(guest)
            for number, (remote, local) in enumerate(recipe.files.items(), 1):
                self._step(
                    f"copying {remote}",
                    f"file {number} of {len(recipe.files)} ({remote})",
                    _copy,
                    guest,
                    local,
                    remote,
                )
            if recipe.packages:
                what = " ".join(recipe.packages)
                self._step(f"installing {what}", f"installing {what}", self._install, guest)
            for number, line in enumerate(recipe.run, 1):
                shown = line.strip().splitlines()[0][:100]
                label = f"step {number} of {len(recipe.run)}"
                self._step(f"{label}: {shown}", f"{label} (`{shown}`)", self._run, guest, line)
                self._check_boot(guest, boot, label)
            guest.shutdown()
            # The file of a template below the guest's disk is needed until here.
            disk = copy_layer(guest.machine.disks[0], Disk(base.disk, base.format), workspace)
        values = {"name": recipe.name, "cpus": recipe.cpus or base.cpus, "memory": recipe.memory or base.memory}
        made = {"recipe": recipe.where, "on": datetime.now(UTC).isoformat(timespec="seconds")}
        return store.publish(workspace, key, base, disk, values, made)

    def _step(self, progress: str, label: str, step: Callable[..., object], guest: Guest, *arguments: object) -> None:
        self._report(f"  {progress}")
        try:
            step(guest, *arguments)
        except CommandFailed as error:
            self._fail(label, f"failed with exit code {error.completed.returncode}", error.completed, error)
        except CommandTimeout as error:
            fix = f"\n  `timeout:` in {self._recipe.where} sets another limit for each step"
            self._fail(label, f"did not end within {error.timeout:g} s", error.completed, error, fix)
        except (ConnectionFailed, BootFailed) as error:
            self._fail(label, "restarted or stopped the guest", None, error, f"\n  {str(error).splitlines()[0]}")
        except XhyveError as error:
            self._fail(label, f"failed: {error}", None, error)

    def _fail(self, label: str, what: str, completed: Completed | None, error: XhyveError, fix: str = "") -> None:
        text = "" if completed is None else f"{completed.stdout}{completed.stderr}"
        lines = "".join(f"\n    {line}" for line in printable(text).rstrip().splitlines()[-_OUTPUT_LINES:])
        if "No space left on device" in text:
            fix += f"\n  the disk is full: `size:` in {self._recipe.where} makes it larger"
        raise ImageError(
            f"cannot build {self._recipe.name}: {label} {what}{lines}{fix}\n"
            f"  nothing of it is kept; try the step by hand: pytest-xhyve shell {self._base.name}"
        ) from error

    def _run(self, guest: Guest, line: Command) -> None:
        guest.run(line, user="root", timeout=self._timeout)

    def _install(self, guest: Guest) -> None:
        guest.run(["sh", "-c", _INSTALL, "sh", *self._recipe.packages], user="root", timeout=self._timeout)

    def _boot_id(self, guest: Guest) -> str:
        return guest.run(["cat", _BOOT_ID], timeout=self._timeout).stdout.strip()

    def _check_boot(self, guest: Guest, before: str, label: str) -> None:
        try:
            same = self._boot_id(guest) == before
        except (ConnectionFailed, BootFailed) as error:
            self._fail(label, "restarted or stopped the guest", None, error)
        if not same:
            raise ImageError(
                f"cannot build {self._recipe.name}: {label} restarted the guest\n"
                "  nothing of it is kept; a step cannot do that: make two recipes, of which one extends the other"
            )


def _copy(guest: Guest, local: Path, remote: str) -> None:
    """Copy a file to *remote*, or what is in a folder into it; root owns the copy."""
    guest.put(f"{local}/." if local.is_dir() else local, remote, user="root")
