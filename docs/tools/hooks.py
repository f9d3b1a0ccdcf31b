"""What the site needs beyond Markdown: the repository's pictures, formulas as MathML, tables of keys.

`figures/` stays where it is and is not copied: every picture joins the site under the same name. A page
refers to it as it would on GitHub, `../figures/x.png`, which lies one folder nearer in the site. Formulas
between dollar signs become MathML while the site is built, so that no page loads a script or a font for
them. The tables of keys are those of `symlearn.config`.

Axes: none.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from symlearn.config import Config, expectation

FIGURES = re.compile(r"\.\./(?=figures/[\w-]+\.png)")
DISPLAYED = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
NAMED = re.compile(r"<mi>(log|exp|det)</mi>(?!<mo[^>]*>&#x00028;)")  # functions without brackets
KEYS = re.compile(r"<!-- keys of (\w+) -->")
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of `figures/`."""
    for picture in sorted((Path(config["config_file_path"]).parent / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """References to pictures as the site has them, and the keys of the configuration."""
    return KEYS.sub(lambda found: keys_of(found[1]), FIGURES.sub("", markdown))


def keys_of(table: str) -> str:
    """A table of the configuration's keys: what each takes, its default, what it means."""
    lines = ["| key | takes | default | |", "|---|---|---|---|"]
    model = Config.model_fields[table].annotation
    for key, field in model.model_fields.items():  # type: ignore[union-attr]
        default = "–" if field.default in (None, ()) else f"`{field.default}`"
        cells = (f"`{key}`", expectation(field.annotation, field.metadata), default, field.description or "")
        lines.append(f"| {' | '.join(cells)} |".replace("<", "&lt;"))
    return "\n".join(lines)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""
    content = DISPLAYED.sub(lambda found: _mathml(found[1], "block"), content)
    return INLINE.sub(lambda found: _mathml(found[1], "inline"), content)


def _mathml(formula: str, display: str) -> str:
    source = html.unescape(formula).strip()
    written = NAMED.sub(r'<mi>\1</mi><mspace width="0.17em"/>', convert(source, display=display))
    if display == "inline":
        return f'<span class="formula">{written}</span>'
    return f'<div class="formula" tabindex="0">{written}</div>'
