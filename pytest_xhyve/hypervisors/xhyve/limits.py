"""What a build of xhyve cannot do on a release of macOS, and on today's Macs.

Three defects were mended after the last release of the program that has them, so each of them depends on the build:

- xhyve 0.2.0 cannot create a machine on macOS 11 and later (machyve/xhyve#192, #203), and does not boot Linux after 4.4
  (machyve/xhyve#132, #180).
- hyperkit up to v0.20200908 cannot create a machine on macOS 11 and later (moby/hyperkit#300).
- The current xhyve shows the CPU's leaf 0x15 to the guest. On the Macs since 2015, Linux 5.3 and later then counts time
  about five times too fast. hyperkit hides the leaf (moby/hyperkit, commit 45c0ba1, which is in no release).
"""

from __future__ import annotations

import re

from pytest_xhyve.hypervisors.xhyve.build import Build

BIG_SUR = 11
_LAST_HYPERKIT_THAT_FAILS = 20200908
_RELEASE = re.compile(r"v?0\.(\d{8})(-\d+-g[0-9a-f]+)?")


def find_obstacle(build: Build, macos: int | None) -> str | None:
    """Why *build* cannot run any guest on macOS *macos*, or None if nothing is known against it.

    Args:
        build: the program's build.
        macos: the first number of macOS's version; None if it is unknown, which counts as a current one.
    """
    if macos is not None and macos < BIG_SUR:
        return None
    if _is_release_020(build):
        return "release 0.2.0 cannot create a machine on macOS 11 and later (machyve/xhyve#203)"
    if build.name == "hyperkit" and _is_old_hyperkit(build.version):
        return "releases of hyperkit up to v0.20200908 cannot create a machine on macOS 11 and later (hyperkit#300)"
    return None


def find_defect(build: Build) -> str | None:
    """What goes wrong in guests under *build*, although they run; None if nothing is known."""
    if _is_release_020(build):
        return "release 0.2.0 does not boot Linux after 4.4 (machyve/xhyve#132)"
    if build.name == "xhyve":
        return "in guests with Linux 5.3 or later, timers run about five times too fast on Macs since 2015"
    return None


def _is_release_020(build: Build) -> bool:
    return build.name == "xhyve" and not build.reports_mac


def _is_old_hyperkit(version: str) -> bool:
    match = _RELEASE.fullmatch(version)
    if match is None:
        return False
    released = int(match[1])
    # A version such as v0.20200908-3-g1234567 is a later state, but earlier than the next release.
    return released < _LAST_HYPERKIT_THAT_FAILS or (released == _LAST_HYPERKIT_THAT_FAILS and match[2] is None)
