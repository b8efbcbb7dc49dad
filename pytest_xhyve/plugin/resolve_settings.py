"""Complete the settings of a run that has some: relative paths become absolute, and what they name is checked.

The plugin imports this module only if an option of its own is set, and in workers of pytest-xdist.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.model.options import INI
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.plugin.stash import is_worker

# The options with a path, or with several; `images` may be names, and has its own step.
_PATHS = ("recipes", "distributions", "key", "seed", "artifacts", "save_failures", "report")


def resolve_settings(settings: Settings, config: pytest.Config) -> Settings:
    """*settings* that stay valid if a test changes the folder.

    Raises:
        XhyveError: an option names something that does not exist, or that cannot be written.
    """
    settings = _make_paths_absolute(settings, config)
    if config.getoption("xhyve_executable") is not None:
        from pytest_xhyve.plugin.preflight import check_program

        check_program(settings)
    if "image" in settings.given:
        # This imports the catalog, so only if the user named an image.
        from pytest_xhyve.plugin.preflight import resolve_images

        # The xdist controller has checked them already, and does not show a worker's error.
        settings = resolve_images(settings, _base_folder(settings, "image", config), check=not is_worker(config))
    if settings.report is not None and not is_worker(config):
        from pytest_xhyve.plugin.html_report import check_writable

        check_writable(settings.report, settings.given["report"])
    return settings


def _make_paths_absolute(settings: Settings, config: pytest.Config) -> Settings:
    changes: dict[str, Any] = {}
    for name in _PATHS:
        if name in settings.given:
            base, value = _base_folder(settings, name, config), getattr(settings, name)
            changes[name] = base / value if isinstance(value, Path) else tuple(base / path for path in value)
    return settings._replace(**changes)


def _base_folder(settings: Settings, option: str, config: pytest.Config) -> Path:
    """What a relative path of *option* starts from: the ini file's folder, or the one in which pytest was started."""
    written = settings.given[option].startswith(INI) and config.inipath is not None
    return config.inipath.parent if written and config.inipath else config.invocation_params.dir
