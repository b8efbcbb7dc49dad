"""The docs' site. ``make docs`` builds it into site/; it loads nothing from anywhere else."""

from __future__ import annotations

import re
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Literal

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.generated import fill_in

# What stands in the sidebar, in this order.
NAVIGATION = {
    "": ["first-test"],
    "How to": [
        "share-guests",
        "clusters",
        "other-plugins",
        "network",
        "files",
        "disks",
        "faults",
        "debug",
        "failed-machine",
        "report",
        "ci",
        "slow-hosts",
        "own-image",
        "other-processors",
        "pull",
        "hosts",
        "install",
        "recipes",
        "on-a-mac",
        "from-the-handbook",
    ],
    "Reference": [
        "reference/options",
        "reference/fixtures",
        "reference/guest",
        "reference/errors",
        "reference/command-line",
        "images",
    ],
    "Background": ["how-it-works", "security", "architecture", "warm-guests", "comparison", "changelog"],
}

project = "pytest-xhyve"
html_title = project
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["*.py"]

html_theme = "furo"
html_logo = "logo.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_permalinks_icon = "#"
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 4

default_role = "literal"  # docstrings put names into single backticks
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88

# A reader copies the commands of a session, and not what they print.
copybutton_prompt_text = r"\$ |> (?! )"
copybutton_prompt_is_regexp = True

Kind = Literal["module", "class", "exception", "function", "method", "property", "attribute", "data"]

_GOOGLE = Config(napoleon_use_ivar=True, napoleon_use_rtype=False)
_TITLED = re.compile(r'^```(\w+) title="([^"]+)"$', re.MULTILINE)


def _prepare(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put in what is generated, give files their names, and the first page the list of all others."""
    text = _TITLED.sub(r"```{code-block} \1\n:caption: \2\n", fill_in(source[0]))
    if page == "index":
        text += "".join(
            f"\n```{{toctree}}\n:hidden:\n{caption and f':caption: {caption}'}\n\n{chr(10).join(pages)}\n```\n"
            for caption, pages in NAVIGATION.items()
        )
    source[0] = text


def _keep_names(_app: Sphinx, document: nodes.document) -> None:
    """Keep the anchors as the pages spell them: docutils turns ``xhyve_image`` into ``xhyve-image``."""
    for name, place in document.nameids.items():
        if place and name != place and re.fullmatch(r"[\w-]+", name):
            document.ids[place]["ids"].append(name)
    for section in document.findall(nodes.section):
        slug = section.get("slug")
        if slug and slug not in document.ids and slug not in section["ids"]:
            section["ids"].append(slug)


def _read_docstring(_app: Sphinx, what: Kind, name: str, found: object, options: object, lines: list[str]) -> None:
    """Read a docstring in Google's style; a property's first line is a sentence, and not ``type: description``."""
    what = "method" if what in ("property", "attribute") else what
    # napoleon's own Config has its settings as attributes, which is all that is asked of it.
    docstring = GoogleDocstring(lines, _GOOGLE, what=what, name=name, obj=found, options=options)  # type: ignore[arg-type]
    lines[:] = docstring.lines()


def _leave_out_signature(_app: Sphinx, what: str, _name: str, found: object, *_: object) -> tuple[str, str] | None:
    """Show no signature of a class that a test never calls."""
    return ("", "") if what == "class" and not is_dataclass(found) else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)
    app.connect("doctree-read", _keep_names)
    app.connect("autodoc-process-docstring", _read_docstring)
    app.connect("autodoc-process-signature", _leave_out_signature)
    # The public errors name the package as their module; their attributes' docstrings are found where they stand.
    ModuleAnalyzer.cache["module", "pytest_xhyve"] = ModuleAnalyzer.for_module("pytest_xhyve.model.errors")
