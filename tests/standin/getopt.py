"""The getopt(3) of the BSDs: no long options, no permutation, its own words for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class BadOption(Exception):
    """An option that is none, or one that lacks its argument; says so in getopt's words, without the program's name."""


def getopt(words: Sequence[str], options: str) -> Iterator[tuple[str, str]]:
    """Yield each option's letter with its argument, which is empty where *options* has no colon after the letter.

    Ends at the first operand; what follows it is never looked at. Whoever acts on an option before asking for the next
    one acts in the order of the command line, up to the first mistake in it.

    Args:
        words: the command line without the program.
        options: the letters, as getopt takes them.

    Raises:
        BadOption: the next option cannot be.
    """
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word in {"-", "--"}:
            return
        for place, letter in enumerate(word[1:], start=2):
            known = options.find(letter)
            if letter == ":" or known < 0:
                raise BadOption(f"illegal option -- {letter}")
            if not options.startswith(":", known + 1):
                yield letter, ""
                continue
            # Whatever stands next is the argument, even where it looks like an option.
            argument = word[place:] or next(rest, None)
            if argument is None:
                raise BadOption(f"option requires an argument -- {letter}")
            yield letter, argument
            break
