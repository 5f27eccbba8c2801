"""Settings of the documentation site: `sphinx-build -W --keep-going -b html docs docs/_build/html`.

The build runs the theory notebook without the cells that train, which take minutes. The quickstart
notebook trains for minutes too, so its page shows the code only. The tests run both notebooks.
"""

import json
import re
import shutil
from pathlib import Path

import gan_jax

HERE = Path(__file__).parent

project = "gan_jax"
release = gan_jax.__version__
copyright = "the gan_jax authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]

html_theme = "sphinx_book_theme"
html_title = "gan_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # in docs/_build: an unchanged notebook is not run again
nb_execution_excludepatterns = ["quickstart.ipynb"]
nb_execution_timeout = 600
nb_execution_raise_on_error = True
copybutton_exclude = ".linenos, .gp"
# The addresses on the pages. `-b linkcheck` needs a network. The html build checks all other links.
linkcheck_ignore = [r"https://github\.com/OWNER/.*"]

# Docstrings state shapes, which say more than the types.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "py:obj"  # `name` in a docstring: a link if the name has an entry, otherwise code
python_maximum_signature_line_length = 88
napoleon_use_param = False  # one line can describe several parameters
napoleon_custom_sections = [("Attributes", "params_style"), ("Metrics", "params_style")]


def plain_text(app, what, name, obj, options, lines):
    """Escapes what reStructuredText would read as markup: docstrings are plain text."""
    code = False
    for number, line in enumerate(lines):
        code = line.lstrip().startswith(">>>") or (code and bool(line.strip()))
        if not code:
            parts = line.split("`")  # odd parts are code, whose text is literal
            parts[::2] = [re.sub(r"[*|\\]|_\b", r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "`".join(parts)


def skip_fields(app, what, name, obj, skip, options):
    """Leaves out the fields of tuples, which the section Attributes describes."""
    return skip or "Alias for field number" in (getattr(obj, "__doc__", None) or "")


def copy_notebooks(app):
    """Copies the notebooks below docs/ and marks the cells that the build does not run."""
    copies = HERE / "notebooks"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for path in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        notebook["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        for cell in notebook["cells"]:
            if ".main(config)" in "".join(cell["source"]):
                cell["metadata"].setdefault("tags", []).append("skip-execution")
        (copies / path.name).write_text(json.dumps(notebook))


def links_within_the_site(app, docname, source):
    """Makes links to files of the repository that have a page lead to this page."""
    pages = {"../notebooks/": "notebooks/", "../benchmarks/README.md": "details.md"}
    pages = {"../docs/": "../"} if docname.startswith("notebooks/") else pages
    if not docname.startswith("guides/"):
        for file, page in pages.items():
            source[0] = source[0].replace(f"]({file}", f"]({page}")


def setup(app):
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", links_within_the_site)
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
