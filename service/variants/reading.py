"""From a file to a plan: read with what cannot be one kept out, and judged before any worker starts."""

import stat
from collections.abc import Callable
from pathlib import Path

from model.bundle.errors import BundleError
from service.variants import plan as plans
from service.variants.plan import Plan, PlanError

MOST_BYTES = 100_000  # of a file: a larger one is no plan, and parsing it would hold up requests


def read(path: Path) -> tuple[Plan | None, str]:
    """None: the file is empty, and nothing runs. Raises PlanError."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):  # a pipe would be waited for
            raise PlanError(f"{path}: neither a file nor a link to one")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise PlanError(f"{path}: {state.st_size} bytes, {MOST_BYTES} are allowed")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return plan_of(text, path), text


def plan_of(text: str, path: Path) -> Plan | None:
    """Of a text that stood in `path`. Raises PlanError."""
    said = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return plans.parsed(text, path) if said else None


def check_shadows(plan: Plan | None, path: Path, journal: bool) -> None:
    """Raises PlanError."""
    if plan is not None and plan.shadows and not journal:
        raise PlanError(f"{path}: shadows: they read the journal and write to it; set RANKER_JOURNAL to a folder")


def check(path: Path, look: Callable[[Path], object], journal: bool) -> None:
    """Before any worker starts: the file, and each of its bundles by `look`. Raises PlanError, BundleError."""
    plan, _ = read(path)
    check_shadows(plan, path, journal)
    for name, bundle in () if plan is None else plan.bundles:
        try:
            look(bundle)
        except BundleError as error:
            raise BundleError(f"{path}: {name}.bundle: {error}") from None
