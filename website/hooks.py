"""What the site needs beyond MkDocs: pages that are kept elsewhere or made while it is built, drawings, and checks."""

from __future__ import annotations

import posixpath
import re
import zlib
from pathlib import Path

import made
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import clew

ROOT = Path(__file__).parents[1]
# Pages that belong to the repository's root: where they are, and where on the site.
GUESTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "NOTICE": "notice.md",
    "src/clew/attributions/attribution.schema.json": "attribution.schema.json",
    **{file.relative_to(ROOT).as_posix(): file.relative_to(ROOT).as_posix() for file in ROOT.glob("results/**/*.md")},
    **{f"notebooks/{file.name}": f"notebooks/{file.stem}.md" for file in ROOT.glob("notebooks/*.ipynb")},
}
FOLDERS = {"notebooks": "tutorials/README.md", "docs/tutorials": "tutorials/README.md"}  # a link to a folder
HOMES = {site: home for home, site in GUESTS.items()}
FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"|<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//[^"]*"'
)
LINK = re.compile(r'(\]\(|src="|href=")([^)#:"\s]+)(?=[)#"])')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The name of the site tells the version."""
    config.site_name = f"clew {clew.__version__}"
    config.copyright = f"clew {clew.__version__}, Apache-2.0"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages from elsewhere, and what is made now."""
    for home, site in GUESTS.items():
        if home.endswith(".ipynb"):
            text, pictures = made.notebook(ROOT / home)
            files.append(File.generated(config, site, content=text))
            for name, content in pictures.items():
                files.append(File.generated(config, f"notebooks/{name}", content=content))
        else:
            files.append(File.generated(config, site, abs_src_path=str(ROOT / home)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links are written for readers of the repository; here they lead to the same pages of the site."""
    here = page.file.src_uri
    home = HOMES.get(here, f"docs/{here}")

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), found[2]))
        site = GUESTS.get(target) or FOLDERS.get(target) or target.removeprefix("docs/")
        known = site != target or target in GUESTS
        return found[1] + (posixpath.relpath(site, posixpath.dirname(here) or ".") if known else found[2])

    markdown = re.sub(r"<!-- made: (\w+) -->", lambda found: made.MADE[found[1]](), markdown)
    # What is code stays as it is.
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", markdown, flags=re.S | re.M)
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drawings become part of their page, so that they have its colours, light or dark."""

    def drawn(found: re.Match[str]) -> str:
        said = re.search(r'alt="([^"]*)"', found[0])  # escaped, as it stands in the page
        svg = (Path(config.docs_dir) / "drawings" / found[1]).read_text("utf-8").strip()
        return svg.replace("<svg ", f'<svg role="img" aria-label="{said[1] if said else ""}" ', 1)

    drawings = re.sub(r'<img [^>]*src="[^"]*drawings/([\w-]+\.svg)"[^>]*>', drawn, content)
    return re.sub(r"<p>(<svg .*?</svg>)</p>", r'<div class="drawing">\1</div>', drawings, flags=re.S)


def on_post_build(config: MkDocsConfig) -> None:
    """Every public name has its place, and no page fetches anything from elsewhere."""
    site = Path(config.site_dir)
    documented = _inventory(site / "objects.inv")
    missing = sorted(name for name, home in made.public_names().items() if not {name, home} & documented)
    if missing:
        raise PluginError(f"no page of docs/reference tells of {', '.join(missing)}")
    for file in site.rglob("*.html"):
        fetched = FETCHED.search(file.read_text("utf-8"))
        if fetched:
            raise PluginError(f"{file.relative_to(site)} fetches from elsewhere: {fetched[0][:200]}")


def _inventory(file: Path) -> set[str]:
    """The names that mkdocstrings wrote down, in Sphinx's format: four lines, then compressed ones."""
    *_, packed = file.read_bytes().split(b"\n", 4)
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
