"""The plugins of other projects that are tried with this one, and loaded in no other test.

pytest-randomly shuffles the tests, pytest-rerunfailures listens at a port, and each takes its time to load.
"""

from __future__ import annotations

NAMES = ("asyncio", "fakefs", "pytest11.testinfra", "randomly", "repeat", "rerunfailures")
"""As ``-p`` of pytest takes them."""

WITHOUT = " ".join(f"-p no:{name}" for name in NAMES)
"""Options of pytest that load none of them."""
