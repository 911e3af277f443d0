"""Sphinx: Markdown pages and an API reference from docstrings. `make docs` builds it, a warning is an error."""

from __future__ import annotations

from shmroute.version import __version__

project = "shmroute"
author = "The shmroute developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
html_theme = "furo"
html_title = "shmroute"
suppress_warnings = ["myst.xref_missing"]
