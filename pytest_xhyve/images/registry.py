"""Exported images in an OCI registry: an artifact with the description and the files as its layers.

The client is that of the ORAS project, the package `oras`. It takes logins and credential helpers from Docker's
configuration. It sends a file in pieces, as otherwise it would read all of it into memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from pytest_xhyve.formats.pieces import Pieces
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.http_pace import Pace, TooSlow
from pytest_xhyve.images.exchange import COMPRESSED, DESCRIBED, import_described, read_described, write_folder
from pytest_xhyve.images.exported import ExportedImage
from pytest_xhyve.images.exporting import Export
from pytest_xhyve.model.errors import ConfigurationError, ImageError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import format_size

PREFIX = "oci://"
"""What the address of an image in a registry begins with: ``oci://REGISTRY/REPOSITORY:TAG``."""

# A name without a dot and a port would be one of Docker Hub's.
_ADDRESS = re.compile(r"oci://(?P<host>\[[0-9a-f:]+\]|[^/:@\s]+)(?P<port>:\d+)?/[^\s@]+:[^\s:/@]+")
# Docker, too, asks these by HTTP.
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TITLE = "org.opencontainers.image.title"
_PIECE = 1 << 16
_CONNECT_SECONDS = 10.0
# Until the next bytes come, and of waiting in which LEAST_BYTES must come: a registry reads a large file once more
# before it answers that it has it.
_SILENCE_SECONDS = 120.0
_HTTP_ERROR = 400
# A registry may refuse manifests of more than 4 MiB (the OCI Distribution Specification, "Pushing Manifests").
_MOST_ANSWER = 4 << 20

Report = Callable[[str], None]


def check_address(address: str) -> str:
    """*address*, if it is that of an image in a registry.

    Raises:
        ConfigurationError: it is not.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not (found["port"] or "." in found["host"] or found["host"] in _LOOPBACK):
        raise ConfigurationError(
            f"{address!r} is not an image in a registry: write oci://REGISTRY/REPOSITORY:TAG, such as "
            "oci://registry.example/guests/debian12:1"
        )
    return address


def push_image(export: Export, address: str, folder: Path, report: Report, *, factor: float = 1.0) -> None:
    """Send *export* to a registry.

    Args:
        export: the image.
        address: an address that `check_address` returned.
        folder: an empty folder, for its compressed files.
        report: called with a line for each file.
        factor: for the limits of time.

    Raises:
        ConfigurationError: the package `oras` is not installed.
        ImageError: a layer cannot be exported.
        XhyveError: the registry cannot be reached, or refuses.
        OSError: the folder cannot be written.
    """
    with _connected(address, _SILENCE_SECONDS * factor) as (client, target):
        description = write_folder(export, folder, report)
        report(f"sending {export.image.name} to {address}")
        with _explained(address):
            client.push(
                target,
                files=[str(description), *map(str, sorted(folder.glob(f"*/*{COMPRESSED}")))],
                disable_path_validation=True,
                do_chunked=True,
                quiet=True,
            )


def pull_image(
    address: str, home: Home, report: Report, name: str | None = None, *, factor: float = 1.0
) -> tuple[ExportedImage, Image]:
    """Import the image at *address*; only files that the cache folder does not have are fetched.

    Args:
        address: an address that `check_address` returned.
        home: the cache folder.
        report: called with a line for each file.
        name: another name for the image.
        factor: for the limits of time.

    Raises:
        ConfigurationError: the package `oras` is not installed; the image cannot have its name.
        ImageError: it is not an exported image, or a file is damaged; nothing of it is imported.
        XhyveError: the registry cannot be reached, or refuses.
        OSError: a file cannot be written.
    """
    with _connected(address, _SILENCE_SECONDS * factor) as (client, target):
        with _explained(address):
            digests = _digests(client.get_manifest(target))
        described = [title for title in digests if title.endswith(DESCRIBED)]
        if len(described) != 1:
            raise ImageError(f"{address} is not an exported image")

        @contextmanager
        def opened(title: str) -> Iterator[IO[bytes]]:
            if title not in digests:
                raise ImageError(f"{address} has no file {title[:80]}\n  export the image again")
            with _explained(address), closing(client.get_blob(target, digests[title], stream=True)) as response:
                if response.status_code >= _HTTP_ERROR:
                    raise XhyveError(f"{address}: the registry has no {title[:80]} (HTTP {response.status_code})")
                yield cast("IO[bytes]", Pieces(response.iter_content(_PIECE)))

        def open_file(sha256: str) -> Any:
            report(f"importing {sha256[:12]} from {address}")
            return opened(f"{sha256}{COMPRESSED}")

        with opened(described[0]) as file:
            image = read_described(file, described[0])
        return import_described(image, home, report, open_file, name)


@contextmanager
def _connected(address: str, silence: float) -> Iterator[tuple[Any, str]]:
    """A client of the registry of *address*, which may be silent for so many seconds, and what it calls the image."""
    try:
        from oras.client import OrasClient  # noqa: PLC0415
        from oras.logger import setup_logger  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"the package oras, which reads {PREFIX}…, is not installed\n  run `pip install 'pytest-xhyve[oci]'`"
        ) from error
    setup_logger(quiet=True)
    target = address.removeprefix(PREFIX)
    registry = target.partition("/")[0]
    is_here = registry in _LOOPBACK or registry.rpartition(":")[0] in _LOOPBACK
    client = OrasClient(insecure=is_here)
    with closing(client.session) as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _paced_adapter(Pace(silence)))
        session.request = partial(_request, session.request, silence)
        with _explained(address):
            asked = session.request("GET", f"{client.prefix}://{registry}/v2/")
            if asked.headers.get("Www-Authenticate", "").lower().startswith("basic"):
                # Otherwise it takes the realm for the address of a server that gives tokens, and sends the login there.
                client.auth = OrasClient(insecure=is_here, auth_backend="basic").auth
                client.auth.session = session
                client.auth.load_configs(client.get_container(target))
                if not hasattr(client.auth, "_basic_auth"):
                    raise XhyveError(f"the registry of {address} asks for a login\n  run `docker login {registry}`")
        # Otherwise it tries five times, and waits two minutes, also if the registry has refused.
        client.do_request = partial(OrasClient.do_request.__wrapped__, client)
        yield client, target


def _paced_adapter(pace: Pace) -> Any:
    """An adapter of requests whose connections have the *pace*, also those through a proxy."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    def set_pace(manager: Any) -> Any:
        classes = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _paced_pool(pool, pace) for scheme, pool in classes.items()}
        return manager

    class PacedAdapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            set_pace(self.poolmanager)

        def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **options)
            return manager if known else set_pace(manager)

    return PacedAdapter()


def _paced_pool(pool: Any, pace: Pace) -> Any:
    """The class *pool* of urllib3, with a pace for its connections."""
    connection = pool.ConnectionCls
    paced = type(connection.__name__, (connection,), {"response_class": staticmethod(pace.response_class())})
    return type(pool.__name__, (pool,), {"ConnectionCls": paced})


def _request(request: Callable[..., Any], silence: float, *arguments: Any, stream: bool = False, **options: Any) -> Any:
    """Call *request* of a session; an answer that is not streamed has a limit.

    Raises:
        ImageError: the answer has no end.
    """
    response = request(*arguments, stream=True, **{"timeout": (_CONNECT_SECONDS, silence), **options})
    if not stream:
        content = Pieces(response.iter_content(_PIECE)).read(_MOST_ANSWER + 1)
        if len(content) > _MOST_ANSWER:
            response.close()
            raise ImageError(f"the registry answers with more than {format_size(_MOST_ANSWER)}")
        # As it is after a request that is not streamed.
        response._content = content
    return response


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except XhyveError:
        raise
    except Exception as error:
        # The client raises many kinds, ValueError among them for what the registry refuses. Those of requests are
        # OSErrors, as those of this host's files are.
        if isinstance(error, OSError) and not type(error).__module__.startswith("requests."):
            raise
        cause = _find_too_slow(error) or error
        reason = printable(" ".join(str(cause).split()))[:500] or type(error).__name__
        raise XhyveError(f"the registry of {address} cannot be used: {reason}") from error


def _find_too_slow(error: BaseException) -> TooSlow | None:
    """What made *error* happen, if the registry was too slow; urllib3 has a text of its own for it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TooSlow):
        cause = cause.__cause__ or cause.__context__
    return cause


def _digests(manifest: Any) -> dict[str, str]:
    """The digest of each layer of *manifest*, by its title; another person may have written it."""
    layers = manifest.get("layers") if isinstance(manifest, Mapping) else None
    found = {}
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, Mapping) and isinstance(layer.get("annotations"), Mapping):
            digest = str(layer.get("digest"))
            if _DIGEST.fullmatch(digest):
                found[str(layer["annotations"].get(_TITLE))] = digest
    return found
