"""Show what is known of a failed test's guests in the reports of pytest-html and Allure, if one of them is active."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import format_seconds

if TYPE_CHECKING:
    from pytest_xhyve.model.failed_guest import FailedGuest
    from pytest_xhyve.model.failure import CommandRecord

_ALLURE = "allure_listener"
_EXTRAS = "extras"


def active_reports(config: pytest.Config) -> OtherReports | None:
    """The reports of other plugins that this run writes; None if it writes none."""
    html = bool(config.getoption("htmlpath", None)) and config.pluginmanager.has_plugin("html")
    allure = config.pluginmanager.has_plugin(_ALLURE)
    return OtherReports(html=html, allure=allure) if html or allure else None


class OtherReports:
    """Adds to reports of failed tests.

    Args:
        html: whether pytest-html is active.
        allure: whether allure-pytest is active.
    """

    def __init__(self, *, html: bool, allure: bool) -> None:
        self._html = html
        self._allure = allure

    def attach(
        self,
        report: pytest.TestReport,
        failed: Sequence[FailedGuest],
        commands: Sequence[CommandRecord],
        bundle: str,
    ) -> None:
        """Add to the report of a failed test, which is the current one.

        Args:
            report: the report of the step that failed.
            failed: its guests.
            commands: the commands that it ran.
            bundle: the command that resumes its guests; empty if none were saved.
        """
        texts = list(_texts(failed, commands, bundle))
        screens = [(f"screen of {guest.name}", guest.screen) for guest in failed if guest.screen]
        if self._html:
            _attach_to_html(report, texts, screens)
        if self._allure:
            _attach_to_allure(texts, screens)


def _texts(failed: Sequence[FailedGuest], commands: Sequence[CommandRecord], bundle: str) -> Iterator[tuple[str, str]]:
    """The name and the content of each text."""
    if bundle:
        yield "resume its guests", f"{printable(bundle)}\n"
    if commands:
        yield "commands", "\n".join(map(_describe, commands))
    for guest in failed:
        yield f"console of {guest.name}", printable(guest.console)
        yield f"journal of {guest.name}", printable(guest.journal)


def _describe(command: CommandRecord) -> str:
    end = "did not end" if command.returncode == -1 else f"exit code {command.returncode}"
    head = f"{command.guest}: {end} after {format_seconds(command.duration)}\n$ {command.command}\n"
    streams = (("standard output", command.stdout), ("standard error", command.stderr))
    return printable(head + "".join(f"{name}:\n{text}\n" for name, text in streams if text))


def _attach_to_html(
    report: pytest.TestReport, texts: Sequence[tuple[str, str]], screens: Sequence[tuple[str, str]]
) -> None:
    # Only if the run has loaded it.
    from pytest_html import extras  # noqa: PLC0415

    added = [extras.text(content, name=name) for name, content in texts]
    added += [extras.png(content, name=name) for name, content in screens]
    # pytest-html reads the attribute; xdist sends it.
    setattr(report, _EXTRAS, [*getattr(report, _EXTRAS, ()), *added])


def _attach_to_allure(texts: Sequence[tuple[str, str]], screens: Sequence[tuple[str, str]]) -> None:
    # Likewise.
    import allure  # noqa: PLC0415

    for name, content in texts:
        allure.attach(content, name=name, attachment_type=allure.attachment_type.TEXT)
    for name, content in screens:
        allure.attach(base64.b64decode(content), name=name, attachment_type=allure.attachment_type.PNG)
