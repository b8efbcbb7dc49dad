"""The workflow for Macs, which cannot be run here: it is valid, and what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pages
import pytest
import yaml

WORKFLOW = pages.TOP / ".github" / "workflows" / "macos.yml"


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    content = yaml.safe_load(WORKFLOW.read_text())
    found: dict[str, Any] = content["jobs"]
    return found


def test_workflow_is_valid() -> None:
    """By the schema of GitHub's workflows."""
    pytest.importorskip("check_jsonschema")
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_targets_are_in_the_makefile(jobs: dict[str, Any]) -> None:
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    targets = {target for run in steps for target in re.findall(r"^make ([a-z][\w-]*)", run, re.MULTILINE)}
    makefile = (pages.TOP / "Makefile").read_text()
    assert targets == {"test-mac"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    # Each example that the demo or a Mac leaves out is one.
    left_out = dict(re.findall(r"^(NOT_(?:IN_THE_DEMO|ON_A_MAC)) := (.*)$", makefile, re.MULTILINE))
    assert len(left_out) == 2
    names = {name for line in left_out.values() for name in line.split()} - {"$(NOT_IN_THE_DEMO)"}
    assert all((pages.TOP / "conftest_examples" / name).is_dir() for name in names)


def test_every_hypervisor_of_the_makefile_is_tried(jobs: dict[str, Any]) -> None:
    (default,) = re.findall(r"^MAC_HYPERVISORS \?= (.*)$", (pages.TOP / "Makefile").read_text(), re.MULTILINE)
    assert jobs["intel"]["strategy"]["matrix"]["hypervisor"] == default.split()


def test_no_job_runs_for_ever(jobs: dict[str, Any]) -> None:
    assert all(job["timeout-minutes"] <= 60 for job in jobs.values())
