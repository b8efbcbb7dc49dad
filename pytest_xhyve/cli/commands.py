"""The commands of ``pytest-xhyve``."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import click

from pytest_xhyve.cli import exchange_commands, guest_commands, host_commands, image_commands
from pytest_xhyve.cli.guest_options import ADVICE
from pytest_xhyve.cli.resume_command import resume
from pytest_xhyve.cli.running_command import console, top
from pytest_xhyve.cli.screenshot_command import screenshot
from pytest_xhyve.model.errors import XhyveError


class _Commands(click.Group):
    """Shows the plugin's errors as a message, not as a traceback."""

    def invoke(self, context: click.Context) -> object:
        from pytest_xhyve.host.home import Home

        try:
            home = Home.of_user()
        except XhyveError:
            # A command that needs the cache folder reports this itself; `doctor` has a finding for it.
            explaining: AbstractContextManager[None] = nullcontext()
        else:
            explaining = home.explain_os_errors()
        try:
            with explaining:
                return super().invoke(context)
        except XhyveError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            # The reader of the output has closed its end; click handles this.
            raise
        except OSError as error:
            raise click.ClickException(f"{error}\n  {ADVICE}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pytest-xhyve")
def main() -> None:
    """Disposable Linux guests for tests: build images, start guests by hand, and list what runs on this host."""
    for fd in range(3):
        # If a standard stream is closed, another file would get its number, and a child would read or write that file.
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


for command in (
    *(guest_commands.run, guest_commands.shell),
    *(image_commands.build, image_commands.install, image_commands.pull, image_commands.show),
    *(image_commands.boot_files, image_commands.import_, exchange_commands.export),
    *(exchange_commands.send, exchange_commands.receive),
    *(host_commands.ps, host_commands.reap, host_commands.images, host_commands.prune, host_commands.doctor),
    *(screenshot, resume, console, top),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
