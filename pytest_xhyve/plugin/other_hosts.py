"""In the xdist controller: bring the run's images to each host on which a worker is about to start."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.host.home import HOME_VARIABLE
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.plugin.fixtures import line_printer
from pytest_xhyve.plugin.stash import settings_of
from pytest_xhyve.plugin.workers import BROUGHT_KEY

if TYPE_CHECKING:
    from pytest_xhyve.images.exporting import Export

NAME = "xhyve-other-hosts"

# Run by the Python of the other host. It is the same text for every host.
_RECEIVE = """
import json, sys
try:
    from pytest_xhyve.images.transfer import receive_over_channel
except ImportError as error:
    reason = f"{sys.executable} has not the same version of pytest-xhyve as this host: {error}"
    channel.send(json.dumps({"error": reason}).encode())
else:
    receive_over_channel(channel)
finally:
    # pytest rewrites the modules of its plugins, and warns of those that are there before it starts.
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytest_xhyve"]:
        del sys.modules[name]
"""
_CLOSE_SECONDS = 30.0


class OtherHosts:
    """Sends images to the hosts of xdist's option ``--tx`` before their workers start, over the workers' connections.

    Args:
        config: the configuration of the controller.
        images: what the images are asked for by, as the user wrote it; none if the user named none.
    """

    def __init__(self, config: pytest.Config, images: Sequence[str]) -> None:
        self._config = config
        self._images = tuple(images)
        self._exports: list[tuple[str, Export]] = []
        # By the host, as the option states it, and by the gateway's id.
        self._brought: dict[Any, list[tuple[str, str]]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self) -> Generator[None, object, object]:
        """Let a host on which no worker can start be an error of two lines; xdist shows its own traceback."""
        try:
            return (yield)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            raise pytest.UsageError(
                f"--tx: cannot start a worker ({error}): a host was not reached, or has not the Python of `python=`\n"
                "  what ssh or the host printed is above; try the same by hand: `ssh HOST PYTHON --version`"
            ) from error

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """End the run if a host went away: xdist starts the worker again, which fails, and shows its own traceback."""
        try:
            return (yield)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            pytest.exit(
                f"a host of --tx went away during the run, and its worker cannot start again ({error}); the test that "
                "it ran has failed, and tests that no worker had begun did not run",
                returncode=pytest.ExitCode.TESTS_FAILED,
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        """Bring the images to the host of *gateway*, unless it is this one."""
        spec = gateway.spec
        if not self._images or (spec.popen and HOME_VARIABLE not in spec.env):
            return
        host = str(spec.ssh or spec.vagrant_ssh or spec.socket or f"the cache folder {spec.env.get(HOME_VARIABLE)}")
        key = (host, spec.python, spec.ssh_config, tuple(sorted(spec.env.items())))
        if key not in self._brought:
            try:
                self._brought[key] = [self._bring(text, export, gateway, host) for text, export in self._exported()]
            except (XhyveError, OSError) as error:
                raise pytest.UsageError(f"cannot bring the images to {host}: {error}") from error
        self._brought[gateway.id] = self._brought[key]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Let the worker know where its host has the images."""
        if (brought := self._brought.get(node.gateway.id)) is not None:
            node.workerinput[BROUGHT_KEY] = brought

    def _exported(self) -> list[tuple[str, Export]]:
        """The images, ready to be sent; they are built or prepared first if need be."""
        if not self._exports:
            from pytest_xhyve.fleet.fleet import Fleet
            from pytest_xhyve.guest.events import Events
            from pytest_xhyve.host.home import Home
            from pytest_xhyve.images.check import check_image
            from pytest_xhyve.images.exporting import describe

            settings, home, report = settings_of(self._config), Home.of_user(), line_printer(self._config)

            class Reporting(Events):
                def progress(self, line: str) -> None:
                    report(line)

            checked = home.folder("checked")
            with closing(Fleet(settings, home, Reporting())) as fleet, home.explain_os_errors():
                for text, settled in zip(self._images, settings.images, strict=True):
                    image = fleet.catalog.find(settled)
                    check_image(image, checked)
                    self._exports.append((text, describe(image, checked)))
        return self._exports

    def _bring(self, text: str, export: Export, gateway: Any, host: str) -> tuple[str, str]:
        """Send *export* to *host*; return what it is asked for by, and its manifest there."""
        from pytest_xhyve.images.transfer import ChannelWire, send_image

        channel = gateway.remote_exec(_RECEIVE)
        try:
            manifest = send_image(export, ChannelWire(channel), host, line_printer(self._config), name=False)
            channel.waitclose(_CLOSE_SECONDS)
        finally:
            channel.close()
        return text, manifest


def _is_unreachable(error: Exception) -> bool:
    """Whether *error* is execnet's, for a host that it cannot reach or that has ended the connection."""
    # Its class is not imported: only xdist needs execnet.
    lost = isinstance(error, OSError) and str(error).startswith("cannot send (already closed?)")
    return type(error).__name__ == "HostNotFound" or lost
