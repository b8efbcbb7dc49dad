"""Limits of texts in a report: a guest may print without end."""

from __future__ import annotations


def shorten(text: str, most: int) -> str:
    """*text* without its middle if it has more than *most* characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[{len(text) - most} characters omitted]\n{text[-(most // 2) :]}"
