"""Ask at the terminal for the password of a disk's user."""

from __future__ import annotations

from dataclasses import replace

from pytest_xhyve.host.terminal import ask_password
from pytest_xhyve.images.catalog import find_source, read_source
from pytest_xhyve.images.own_login import OwnLogin, explain_missing_password
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.settings import Settings


def with_password(settings: Settings, image: str) -> Settings:
    """*settings* with the password that the user types, if the login to guests of *image* needs one.

    Raises:
        ConfigurationError: the login is not usable, or there is no terminal, or no answer.
    """
    manifest = read_source(image, find_source(image))
    if manifest is None:
        return settings
    manifest = OwnLogin.of(settings).applied_to(manifest)
    if not manifest.needs_password:
        return settings
    password = ask_password(f"Password of {manifest.own_user} on {manifest.disk.name}: ")
    if password is None:
        raise ConfigurationError(explain_missing_password(manifest))
    return replace(settings, password=password)
