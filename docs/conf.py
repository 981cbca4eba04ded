"""How Sphinx makes the site from these documents: ``make docs``."""

project = "mlgym-mcp"
author = "The mlgym-mcp authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["requirements.txt"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "mlgym-mcp"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
highlight_language = "text"
