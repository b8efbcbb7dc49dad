"""Every example of the README and the docs, run as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
from foreign import make_foreign_disk
from homes import share

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import reap_kept


@pytest.mark.thorough
def test_python_examples(pytester: pytest.Pytester) -> None:
    examples = [block for page in pages.PAGES for block in pages.blocks(page, "python") if block.title is None]
    for number, example in enumerate(examples):
        pytester.makepyfile(**{f"test_example_{number}": f"# {example}\n{example.text}"})
    tests = sum(len(re.findall(r"^ *def test_", example.text, re.MULTILINE)) for example in examples)
    result = pytester.runpytest_subprocess("--xhyve-image=debian12")
    passed = result.parseoutcomes()["passed"]
    result.assert_outcomes(passed=passed)
    # Some are parametrized.
    assert passed >= tests


# What needs neither systemd nor Python in the guest runs on the image that boots in a fifth of the time.
EXAMPLES_ON_TINY = {"first_test"}


@pytest.mark.parametrize("image", ["tiny", pytest.param("debian12", marks=pytest.mark.thorough)])
def test_example_suites(pytester: pytest.Pytester, image: str) -> None:
    every = sorted((pages.TOP / "conftest_examples").glob("*/test_*.py"))
    # tests/images runs the others, which take longer.
    quick = [suite for suite in every if suite.parent.name not in pages.SLOW_EXAMPLES]
    suites = [path for path in quick if (path.parent.name in EXAMPLES_ON_TINY) == (image == "tiny")]
    result = pytester.runpytest_subprocess(f"--xhyve-image={image}", *map(str, suites))
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] >= len(suites) > 0


@pytest.fixture
def reader() -> Iterator[Home]:
    """A folder of the plugin's in which nobody else has guests; it stays, as templates made here point into it."""
    home = share(Home.of_user(), Home.of_user().path / "test-docs")
    yield home
    reap_kept(home.folder("runs"))


WITH_COMMANDS = [page for page in pages.PAGES if pages.blocks(page, "console")]


@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    # The tutorial is what a newcomer meets first.
    [pytest.param(page, marks=() if page.stem == "first-test" else pytest.mark.thorough) for page in WITH_COMMANDS],
    ids=map(pages.name, WITH_COMMANDS),
)
def test_console_examples(page: Path, tmp_path: Path, reader: Home) -> None:
    """A page's files and commands, one after the other, in a folder of their own."""
    folder = tmp_path / "project"
    folder.mkdir()
    wrong = []
    said = ""
    if page.stem == "first-test":
        # The page shows what is printed once there are templates.
        for image in ("debian12", "tiny"):
            pages.run_command(f"pytest-xhyve run {image} -- true", folder, reader.path)
    for block in pages.blocks(page):
        if block.title is not None and block.kind in pages.FILES:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)
        for step in pages.steps(block) if block.kind == "console" else ():
            done = pages.run(pages.filled_in(step, said), folder, reader.path)
            said += done.stdout
            right = done.returncode == pages.expected_code(step) and pages.is_shown(step.shown, done.stdout)
            if not right:
                wrong.append(f"{block}: $ {step.command}\n{done.stdout}ended with {done.returncode}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.thorough
def test_commands_for_a_readers_own_disk(tmp_path: Path, reader: Home) -> None:
    """The commands of own-image.md, with a disk that has nothing of the plugin's, and a test beside it."""
    disk = make_foreign_disk(tmp_path / "ubuntu18.img")
    before = digest_of(disk)
    (tmp_path / "test_own.py").write_text("def test_answers(xhyve_guest): xhyve_guest.run('true')\n")
    said = ""
    for command in pages.ON_A_DISK:
        done = pages.run_command(command, tmp_path, reader.path)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        said += done.stdout
    assert said.count("prepared ubuntu18.img in ") == 1
    assert "1 passed" in said
    assert sorted(path.name for path in (tmp_path / "boot").iterdir()) == ["cmdline", "initrd.img", "vmlinuz"]
    # The manifest that was printed is an image.
    done = pages.run_command("pytest --xhyve-image=web.yaml", tmp_path, reader.path)
    assert done.returncode == 0, done.stdout
    assert digest_of(disk) == before
