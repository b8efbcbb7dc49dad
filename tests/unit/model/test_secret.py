"""A password is shown nowhere."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.settings import Settings

SECRET = Secret("hush")


@pytest.mark.parametrize("show", [str, repr, "{}".format, lambda each: f"{[each]} {each}"])
@pytest.mark.parametrize("holder", [SECRET, Settings(password=SECRET), OwnLogin("root", password=SECRET)], ids=str)
def test_no_text_shows_it(show: Callable[[Any], str], holder: object) -> None:
    assert "hush" not in show(holder)


@pytest.mark.parametrize("save", [pickle.dumps, copy.deepcopy, json.dumps])
def test_it_cannot_be_saved(save: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        save(SECRET)


def test_equal_ones_are_equal() -> None:
    assert Secret("hush") == SECRET
    assert Secret("other") != SECRET
    assert SECRET.reveal() == "hush"
