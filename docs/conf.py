"""The site, built by `python3 dev.py docs`: `losspages` makes the pages of losses, `curves` their pictures."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "jaxloss"
author = copyright = "The jaxloss authors"
release = importlib.metadata.version("jaxloss")

extensions = ["myst_nb", "sphinx.ext.mathjax", "losspages"]
exclude_patterns = ["_made/stamp"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `dev.py notebooks` ran them
nb_merge_streams = True

html_theme = "furo"
html_title = "jaxloss"
html_favicon = "_static/icon.svg"
html_static_path = ["_static", "_made"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#005a8c", "color-brand-content": "#005a8c"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}
html_show_sphinx = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# Cards of the gallery hold formulas in plain HTML, so every page has MathJax. It is copied from a package: no page of
# the site asks another machine for anything.
html_math_renderer = "mathjax"
mathjax_path = "tex-svg.js"
