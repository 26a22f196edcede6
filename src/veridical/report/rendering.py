"""Templates to self-contained pages: style and script are put inside, and nothing else may be loaded."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, **fields: Any) -> str:
    """A page from its template; `style`, `script` and `security` are added to the fields.

    `security` is a content security policy that allows pictures inside the page, its style and this very
    script, so that a name in a run can never bring another one.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _own("style.css"), _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    security = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    security += "; base-uri 'none'; form-action 'none'"
    return environment.get_template(template).render(style=style, script=script, security=security, **fields)


def _own(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704 (our own file)
