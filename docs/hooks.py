"""MkDocs hooks: pages that the site takes from the repository's root."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
README_SECTIONS = "index.md"  # the site has no README; its first page leads to what the README tells


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages under the names that the navigation gives them."""
    files.append(File.generated(config, "security.md", content=for_site((ROOT / "SECURITY.md").read_text("utf-8"))))
    return files


def for_site(text: str) -> str:
    """A page of the root with links as they are from within ``docs/``."""
    text = re.sub(r"\]\(README\.md(?:#[\w-]+)?\)", f"]({README_SECTIONS})", text)
    return re.sub(r"\]\(docs/", "](", text)
