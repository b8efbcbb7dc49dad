"""Skip the tests that may not run on their guest's image: ``only`` and ``skip_on`` of the marker ``xhyve``.

The plugin imports this module only if a test has one of these keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.guests import Guests
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.stated import facts_of, find_facts
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.restriction import Restriction
from pytest_xhyve.plugin.selection import wanted_specs
from pytest_xhyve.plugin.wanted import restriction_arguments

if TYPE_CHECKING:
    from pytest_xhyve.model.settings import Settings

_HOOKS = "xhyve-restricted"


def skip_restricted(items: Sequence[pytest.Item], config: pytest.Config, settings: Settings) -> None:
    """Mark each of *items* to be skipped of whose image it is known that the test may not run on it.

    Of the others, the image has to be prepared first; they are skipped when their guest has started.
    """
    places, login = Places.of(Home.of_user(), settings), OwnLogin.of(settings)
    for item in items:
        restriction = Restriction.parse(**restriction_arguments(item))
        for spec in wanted_specs(item):
            # The check of the images, which follows, reports one that is not found.
            with contextlib.suppress(XhyveError):
                image = settings.images[0] if spec.image is None else spec.image
                reason = restriction.reason_to_skip(find_facts(image, places, login), is_complete=False)
                if reason is not None:
                    item.add_marker(pytest.mark.skip(reason=reason))
                    break
    if not config.pluginmanager.has_plugin(_HOOKS):
        config.pluginmanager.register(_RestrictionHooks(), _HOOKS)


class _RestrictionHooks:
    """Skips a test whose guest has started from an image that it may not run on."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        arguments = restriction_arguments(item)
        if not arguments:
            return
        restriction = Restriction.parse(**arguments)
        for guest in _guests_of(getattr(item, "funcargs", {}).values()):
            reason = restriction.reason_to_skip(facts_of(guest.image), is_complete=True)
            if reason is not None:
                pytest.skip(reason)


def _guests_of(values: Iterable[object]) -> Iterable[Guest]:
    for value in values:
        if isinstance(value, Guest):
            yield value
        elif isinstance(value, Guests):
            yield from value
