"""The files of the page on several hosts, which no test can run: they are valid, and what they rely on works."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pages
import pytest
import yaml

PAGE = pages.TOP / "docs" / "hosts.md"
GROUPS = 4


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return {block.title: block.text for block in pages.blocks(PAGE, "yaml") if block.title}


@pytest.fixture(scope="module")
def job(files: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(files["job.yaml"])
    return content


def test_workflow_is_valid(files: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    path = tmp_path / "split.yml"
    path.write_text(files[".github/workflows/split.yml"])
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_job_is_valid(job: dict[str, Any]) -> None:
    """By the schema of Kubernetes, which finds a wrong name."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    kubernetes.validate(job, kubernetes.latest_version(), strict=True)
    wrong = copy.deepcopy(job)
    wrong["spec"]["completionmode"] = wrong["spec"].pop("completionMode")
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(wrong, kubernetes.latest_version(), strict=True)


@pytest.mark.usefixtures("entry_points")
def test_every_test_is_in_one_group(files: dict[str, str], job: dict[str, Any], pytester: pytest.Pytester) -> None:
    """Each page's file has as many parts as it asks pytest-split for, and these make up the suite."""
    pytest.importorskip("pytest_split")
    workflow = yaml.safe_load(files[".github/workflows/split.yml"])
    assert workflow["jobs"]["guests"]["strategy"]["matrix"]["group"] == [*range(1, GROUPS + 1)]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (GROUPS, GROUPS)
    assert all(f"--splits={GROUPS} " in text for text in files.values())
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(10))
        def test_guest(xhyve_guest, number): ...
        """
    )
    found = []
    for group in range(1, GROUPS + 1):
        result = pytester.runpytest("--collect-only", "-q", f"--splits={GROUPS}", f"--group={group}")
        assert result.ret == pytest.ExitCode.OK
        found += [line for line in result.outlines if "::" in line]
    assert len(found) == len(set(found)) == 10
