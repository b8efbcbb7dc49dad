"""The password of a disk's user: what the user types at the terminal."""

from __future__ import annotations

from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.images.own_login import ask_for_password
from pytest_xhyve.model.settings import Settings


def with_password(settings: Settings, manifest: Manifest | None) -> Settings:
    """*settings* with the password that the user types, if the login that *manifest* states needs one.

    Raises:
        ConfigurationError: there is no terminal, or no answer.
    """
    if manifest is None or not manifest.needs_password:
        return settings
    return settings._replace(password=ask_for_password(manifest))
