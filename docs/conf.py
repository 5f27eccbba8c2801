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
html_theme_options = {"show_toc_level": 2, "navbar_persistent": [], "use_download_button": False}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # results are kept in docs/_build until the notebook changes
nb_execution_excludepatterns = ["quickstart.ipynb"]
nb_execution_timeout = 600
nb_execution_raise_on_error = True
copybutton_exclude = ".linenos, .gp"
# The addresses on the pages. `-b linkcheck` needs a network. The html build checks all other links.
linkcheck_ignore = [r"https://github\.com/OWNER/.*"]

# Docstrings state shapes, which say more than the types.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "py:obj"  # `name` in a docstring: a link if the name has an entry, otherwise code
python_maximum_signature_line_length = 88
napoleon_use_param = False  # one line can describe several parameters
napoleon_custom_sections = [("Attributes", "params_style"), ("Metrics", "params_style")]


def plain_text(app, what, name, obj, options, lines):
    """Turns a docstring, which is plain text, into reStructuredText.

    A name in `backticks` becomes a link if it has an entry. Other code becomes a literal.
    Characters that reStructuredText would read as markup are escaped. Doctests stay as they are.
    """

    def converted(match):
        code = match[1]
        if code is None:
            return "\\" + match[0]
        return match[0] if re.fullmatch(r"\w[\w.]*", code) else f"``{code}``"

    parts = re.split(r"(^ *>>>.*?(?:\n *\n|\Z))", "\n".join(lines), flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [re.sub(r"`([^`]+)`|[*|\\]|_\b", converted, part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")
    if what in ("attribute", "data"):  # napoleon reads words before a colon as a type
        lines[:1] = lines[0].replace(": ", ":\n", 1).split("\n")


def no_signature(app, what, name, obj, options, signature, return_annotation):
    """Leaves out the meaningless signature of a Protocol."""
    return ("", None) if signature == "(*args, **kwargs)" else None


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
    if docname.startswith("notebooks/"):
        pages = {"../docs/": "../"}
    elif docname.startswith("guides/"):
        pages = {"../../notebooks/": "../notebooks/"}
    for file, page in pages.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")


def setup(app):
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", links_within_the_site)
    app.connect("autodoc-process-docstring", plain_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", no_signature)
    app.connect("autodoc-skip-member", skip_fields)
