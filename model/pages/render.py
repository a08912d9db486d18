"""A template and its content → one HTML file that loads nothing from anywhere.

A page's template lies beside the code that fills it, extends base.html and takes tables from parts.html.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
NONE = "–"


def render(template: Path, **content: Any) -> str:
    """Values are escaped, `Markup` is not. Raises jinja2.UndefinedError for a name that the content lacks."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name must not show as nothing
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template.name).render(content)


def number(value: float | None, form: str = ".4f") -> str:
    """The value by a format of Python's, with a typographic minus; a dash for None."""
    return NONE if value is None else format(value, form).replace("-", "−")
