"""The lines about hypervisor and image in pytest's header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.settings import EMULATION_FACTOR, Settings

if TYPE_CHECKING:
    from pytest_xhyve.host.home import Home


def header_lines(settings: Settings) -> list[str]:
    """The header's lines. A problem of this host is one of them: it is not an error until a test needs a guest."""
    from pytest_xhyve.host.home import Home

    try:
        home = Home.of_user()
        with home.explain_os_errors():
            return _header_lines(settings, home)
    except (XhyveError, OSError) as error:
        return [f"xhyve: {line}" for line in str(error).splitlines()]


def _header_lines(settings: Settings, home: Home) -> list[str]:
    from pytest_xhyve.fleet.hypervisors import default_architectures
    from pytest_xhyve.host.runs import live_guests
    from pytest_xhyve.hypervisors.choice import select_hypervisor

    images = []
    for name in settings.images:
        try:
            images.append(_describe_image(name, settings, home))
        except XhyveError as error:
            images.append(f"{name} ({str(error).splitlines()[0]})")
    shown = f"image {', '.join(images)}"
    notes: list[str] = []
    try:
        infos = [
            (each, select_hypervisor(settings, home, notes.append, each).info)
            for each in default_architectures(settings, home)
        ]
    except XhyveError as error:
        return [f"xhyve: no hypervisor, {shown}", *f"  {error}".splitlines()]
    lines = [f"xhyve: {line}" for note in notes for line in note.splitlines()]
    kept = [guest for guest in live_guests(home.folder("runs")) if guest.kept]
    if kept:
        names = ", ".join(guest.name for guest in kept)
        lines.append(f"xhyve: kept by earlier runs: {names} (`pytest-xhyve reap` removes them)")
    for architecture, info in infos:
        guests = f"{shown}" if len(infos) == 1 else f"guests of {architecture.name}"
        lines.append(f"xhyve: {info.name} {info.version}, {info.acceleration} ({info.reason}), {guests}")
        if info.emulated:
            cpu = "the CPU" if architecture.is_native() else f"a CPU of {architecture.name}"
            lines.append(
                f"xhyve: {cpu} is emulated, which is many times slower; timeouts are {EMULATION_FACTOR:g} times as long"
            )
    if len(infos) > 1:
        lines.append(f"xhyve: {shown}")
    return lines


def _describe_image(name: str, settings: Settings, home: Home) -> str:
    """The image *name*, with what the first guest has to do first, and how long that takes."""
    from pytest_xhyve.images.catalog import read_stated
    from pytest_xhyve.images.own_login import OwnLogin
    from pytest_xhyve.images.places import Places
    from pytest_xhyve.images.pulled import find_pulled
    from pytest_xhyve.images.sources import find_source

    places = Places.of(home, settings)
    source = find_source(name, places=places)
    if source.own is not None:
        return f"{name} (a recipe; the first guest builds what is not built yet)"
    pulled = None
    if source.address is not None:
        pulled = find_pulled(source.address, home.path)
        if pulled is None:
            todo = "--xhyve-offline forbids to pull it" if settings.offline else "the first guest pulls it"
            return f"{name} (not pulled yet; {todo})"
    manifest = read_stated(name, OwnLogin.of(settings), places)
    if manifest is None:
        built = (home.path / "images" / f"{source.recipe or name}.yaml").is_file()
        return name if built else f"{name} (not built yet; the first guest builds it)"
    if not manifest.needs_preparation:
        return name
    from pytest_xhyve.preparation.prepared import describe_duration, describe_state, find_prepared, prepared_state

    if pulled is not None:
        name = f"{name} as pulled on {pulled.on[:10]}"
    prepared = find_prepared(manifest, home)
    if prepared is not None:
        state = describe_state(prepared_state(prepared)).removeprefix("; ")
        return f"{name} ({state})" if state else name
    return f"{name} (not prepared yet; the first guest prepares it, which {describe_duration(home)})"
