"""How the documentation is built: ``make docs``. Nothing here needs the network."""

import os
import shutil
import sys
import warnings
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
# Where a package would look for a newer model on a hub: what is installed counts.
os.environ["HF_HUB_OFFLINE"] = "1"

import rezsl_sk  # noqa: E402

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "rezsl_sk"
author = "the developers of rezsl_sk"
copyright = author
version = release = rezsl_sk.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "myst_parser",  # CHANGELOG.md, and tables that the README shares
    "mathml",
]
templates_path = ["_templates"]
# The benchmark's tables are included below a heading of their page, at level 3.
suppress_warnings = ["myst.header"]
# Parts of other pages.
exclude_patterns = [
    "_build",
    "*_table.*",
    "auto_examples/*.ipynb",
]
nitpicky = True

# ---- the API, from the docstrings ---------------------------------------------------

autosummary_generate = True
autosummary_imported_members = False
autodoc_inherit_docstrings = False  # torch's and scikit-learn's are not ours
autodoc_typehints = "none"  # numpydoc's sections say more
autodoc_member_order = "bysource"
# A class's page lists its methods itself; numpydoc would list them twice.
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
nitpick_ignore_regex = [
    # Base classes, and what belongs to other projects. Their inventories would have
    # to be downloaded.
    ("py:.*", r"(sklearn|numpy|torch|scipy|pandas|PIL|pathlib)\..*"),
]

# ---- the gallery --------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",  # the others need data that is not here
    # A tool with a manual of its own (--help), not a page to read.
    "ignore_pattern": r"(__init__|benchmark)\.py",
    "within_subsection_order": "gallery_order.CourseOrder",
    "image_srcset": ["2x"],
    "default_thumb_file": str(HERE / "_static" / "no_figure.png"),
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # its page would load scripts from a server
    "min_reported_time": 0,
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "doc_module": ("rezsl_sk", "rezsl_features"),
    "backreferences_dir": "auto_examples/backreferences",
    "show_signature": False,
    "remove_config_comments": True,
    "reset_modules_order": "both",
    "reset_modules": ("matplotlib",),
}

# ---- the look -----------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "rezsl_sk"
html_static_path = ["_static"]
html_css_files = ["rezsl.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
}
# Pages that have none below them need no list of those.
html_sidebars = {page: [] for page in ("start", "from_rezsl", "faq", "changelog")}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def show_report(app, error):
    """Put the report that an example wrote beside the pages that link to it."""
    report = HERE.parent / "examples" / "demo_output" / "unseen_pictures.html"
    if error is None and report.exists():
        shutil.copy(report, Path(app.outdir, "_static", "report.html"))


def setup(app):
    app.connect("build-finished", show_report)


# Examples that end with plt.show() have nothing to show on.
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
