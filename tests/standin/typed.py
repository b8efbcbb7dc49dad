"""Command lines as the tests type them."""

from __future__ import annotations

import pytest

from standin.commandline import Build, CommandLine, Ended, Firmware, parse
from standin.usage import usage

BUILDS: list[Build] = ["v0.2.0", "head", "hyperkit"]
KEXEC = ["-f", "kexec,k,i,c"]
FIRMWARE = Firmware("k", "i", "c")

each_build = pytest.mark.parametrize("build", BUILDS)


def read(*words: str, build: Build = "head") -> CommandLine:
    return parse(["/opt/bin/xhyve", *words], build)


def end(*words: str, build: Build = "head", program: str = "xhyve") -> tuple[int, str, str]:
    with pytest.raises(Ended) as raised:
        parse([f"/opt/bin/{program}", *words], build)
    return raised.value.code, raised.value.stdout, raised.value.stderr


def wrong_option(message: str, build: Build = "head", program: str = "xhyve") -> tuple[int, str, str]:
    return 1, "", f"{program}: {message}\n{usage(program, build)}"
