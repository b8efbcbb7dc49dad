"""Former module of `format_size`; `pytest_xhyve.guest.evidence` still imports it from here."""

from pytest_xhyve.model.values import format_size

__all__ = ["format_size"]
