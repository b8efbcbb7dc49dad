"""The sources use the words of the glossary in CONTRIBUTING.md, and not those that it has retired."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest

# Files and folders that are searched.
SEARCHED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "conftest_examples/README.md", "docs", "pytest_xhyve")
SUFFIXES = (".md", ".py", ".svg", ".css")

_HEADING = "### Retired words\n"


def retired() -> list[str]:
    """The retired words, from the first column of the table."""
    _, _, section = (pages.TOP / "CONTRIBUTING.md").read_text().partition(_HEADING)
    cells = re.findall(r"^\| (?!not )([a-z][^|]*) \|", section.partition("\n## ")[0], re.MULTILINE)
    return [word.strip() for cell in cells for word in cell.split(",")]


def pattern(words: list[str]) -> re.Pattern[str]:
    """Finds any of the *words*, also over the end of a line; "there is no" and "is no longer" are plain English."""
    either = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words)
    return re.compile(rf"\b(?<!there\s)(?:{either})\b(?!\s+longer\b)", re.IGNORECASE)


def split_names(text: str) -> str:
    """Write ``made_ahead`` and ``MadeAhead`` as ``made ahead``, so that names are read as prose is."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text.replace("_", " "))


def searched_files() -> Iterator[Path]:
    for name in SEARCHED:
        path = pages.TOP / name
        yield from (each for each in sorted(path.rglob("*")) if each.suffix in SUFFIXES) if path.is_dir() else [path]


def find_retired(path: Path) -> Iterator[str]:
    text = path.read_text()
    if path.name == "CONTRIBUTING.md":
        before, _, section = text.partition(_HEADING)
        table, _, after = section.partition("\n## ")
        # The lines keep their numbers.
        text = before + "\n" * table.count("\n") + after
    # Python's "is None" is not the retired "is none".
    text = split_names(text.replace("is None", "is  -  "))
    for found in pattern(retired()).finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield f"{path.relative_to(pages.TOP)}:{line}: {found[0]!r}"
    found_name = pattern(retired()).search(split_names(path.stem))
    if found_name:
        yield f"{path.relative_to(pages.TOP)}: the name has {found_name[0]!r}"


def test_no_retired_word() -> None:
    found = [line for path in searched_files() for line in find_retired(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["a ward", "Ward(1)", "made_ahead", "MadeAhead", "it came\nup", "This is no name"])
def test_finds_words_and_names(text: str) -> None:
    assert pattern(retired()).search(split_names(text))


@pytest.mark.parametrize("text", ["forward", "it is no longer here", "There is no guest", "upcoming", "a livestock"])
def test_leaves_other_words(text: str) -> None:
    assert not pattern(retired()).search(split_names(text))
