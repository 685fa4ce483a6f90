"""The site: `make docs` builds it, and takes every page that lies in this folder."""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("KERAS_BACKEND", "torch")

import fastpool

project = "fastpool"
author = copyright = "The fastpool developers"
version = release = fastpool.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fastpool {release}"
html_show_sourcelink = False

myst_heading_anchors = 3  # so that pages can point to each other's headings

default_role = "py:obj"  # docstrings name functions and arguments in single backticks
autodoc_typehints = "none"  # the docstrings tell
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Keras and PyTorch are written in other markup
napoleon_use_rtype = False


def asterisks(app, what, name, obj, options, lines):
    """In docstrings an asterisk is an asterisk, as in (N, *S, C)."""
    lines[:] = [re.sub(r"(?<![\w*])\*(?=\w)", r"\\*", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", asterisks, priority=400)  # before napoleon adds its own
