"""Add the guests of a run to the summary of a job of GitHub Actions, if the run is part of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_xhyve.plugin.summary import RunSummary
from pytest_xhyve.report.markdown import summarize

VARIABLE = "GITHUB_STEP_SUMMARY"
"""The environment variable with the path of the file to which a step appends Markdown."""

_OF_GUESTS = "log xhyve: "


def write_job_summary(terminal: pytest.TerminalReporter, summary: RunSummary) -> None:
    """Append *summary*, and what the reports of failed tests show of their guests.

    A summary that cannot be written is not worth an error: the terminal has shown all of it.
    """
    reports = [*terminal.stats.get("failed", ()), *terminal.stats.get("error", ())]
    failed = []
    for report in reports:
        sections = [(title, text) for title, text in getattr(report, "sections", ()) if _OF_GUESTS in title]
        if sections:
            parts = [report.longreprtext, *(f"--- {title} ---\n{text}" for title, text in sections)]
            failed.append((report.nodeid, "\n".join(parts)))
    if not (summary.times or failed):
        return
    try:
        with Path(os.environ[VARIABLE]).open("a", errors="backslashreplace") as file:
            file.write(summarize(summary.times, failed, summary.saved))
    except OSError as error:
        terminal.write_line(f"xhyve: cannot write the job's summary: {error.strerror}")
