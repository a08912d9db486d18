"""docs/settings.md, from the settings themselves: `make docs` writes it, a test compares.

python -m tests.settings_page > docs/settings.md
"""

from pathlib import Path
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from service.settings import DEMO_BUNDLE, Settings

HEAD = """\
# Settings

Environment variables of `python -m service`. The log names a misspelt `RANKER_…`.
A value that is not allowed stops the start. `make docs` writes this page from `service/settings.py`.

| variable | default | allowed | what and why |
| --- | --- | --- | --- |
"""


def page() -> str:
    rows = [
        f"| `RANKER_{name.upper()}` | {_default(field)} | {_allowed(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "the cores / `RANKER_WORKERS`"
    value = field.default
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value) or "none"
    words: dict[object, str] = {None: "unset", DEMO_BUNDLE: "the demo", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, (bool, Path)) else str(value) or "none"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    if field.annotation is bool:
        return "true, false"
    lowest = next((rule.ge for rule in field.metadata if isinstance(rule, Ge)), None)
    highest = next((rule.le for rule in field.metadata if isinstance(rule, Le)), None)
    if lowest is not None:
        return f"{lowest} to {highest}" if highest is not None else f"{lowest} or more"
    pattern = next((rule.pattern for rule in field.metadata if hasattr(rule, "pattern")), None)
    return pattern.strip("^()$").replace("|", ", ") if pattern else ""


if __name__ == "__main__":
    print(page(), end="")
