"""Every example of the README and the docs, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from chosen import Chosen

from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.settings import OPTIONS

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_python_examples(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    examples = [block for page in PAGES for block in blocks(page, "python")]
    if hypervisor.name == "xhyve":
        # It cannot save a machine, and says so.
        examples = [example for example in examples if "reset=True" not in example]
    tests = 0
    for number, example in enumerate(examples):
        pytester.makepyfile(**{f"test_example_{number}": example})
        tests += len(re.findall(r"^def test_", example, re.MULTILINE))
    # One of them runs on two images.
    pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=debian12").assert_outcomes(passed=tests + 1)


def test_example_suites(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    suites = TOP / "conftest_examples"
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=debian12", str(suites))
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] >= len(list(suites.glob("*/test_*.py")))


def test_manifest_examples(tmp_path: Path) -> None:
    (example,) = [block for page in PAGES for block in blocks(page, "yaml")]
    path = tmp_path / "ubuntu18.yaml"
    path.write_text(example)
    image = read_manifest(path)
    assert image.disk == tmp_path / yaml.safe_load(example)["disk"]
    assert image.memory == 1 << 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_links_exist(page: Path) -> None:
    text = page.read_text()
    flags = set(re.findall(r"--xhyve-[a-z-]+", text))
    assert flags <= {option.flag for option in OPTIONS}
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    targets = set(re.findall(r"^    make (\w+)|`make (\w+)`", text, re.MULTILINE))
    makefile = (TOP / "Makefile").read_text()
    for names in targets:
        assert f"\n{''.join(names)}:" in makefile
