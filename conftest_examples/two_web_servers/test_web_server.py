"""The same tests for two images: each test runs once with each of two web servers.

To copy: a conftest.py that states the images, and no word of them in the tests.
"""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from pytest_xhyve import Guest


def get(guest: Guest, path: str) -> bytes:
    """What the web server in *guest* sends."""
    host, port = guest.forward(80)
    with urlopen(f"http://{host}:{port}/{path}", timeout=60) as answer:
        content: bytes = answer.read()
    return content


@pytest.fixture(scope="module")
def web(xhyve_module_guest: Guest) -> Guest:
    """A guest whose web server has a page."""
    xhyve_module_guest.put(b"hello\n", "/var/www/html/hello.txt")
    xhyve_module_guest.wait_for_port(80)
    return xhyve_module_guest


def test_serves_a_page(web: Guest) -> None:
    assert get(web, "hello.txt") == b"hello\n"


def test_shows_nothing_outside_of_its_folder(web: Guest) -> None:
    with pytest.raises(HTTPError, match=r"40[0134]"):
        get(web, "..%2f..%2f..%2fetc/passwd")


def test_serves_again_after_a_reboot(web: Guest) -> None:
    web.reboot()
    web.wait_for_port(80)
    assert get(web, "hello.txt") == b"hello\n"
