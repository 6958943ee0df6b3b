"""Pages of the documentation site that are files of the repository's root: a hook of mkdocs, which `mkdocs.yml` names."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Any, config: Any) -> Any:
    """:return: the files of the site with those pages, whose links to `docs/` are links beside them"""
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        text = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    return files
