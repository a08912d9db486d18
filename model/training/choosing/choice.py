"""Which recipe a run goes by, and why. Every verb that trains asks here.

--recipe NAME_OR_PATH            that one
--warm BUNDLE                    the bundle's own: other widths would not fit its weights
model/recipes/<dataset>.toml …   where the project has one for the data set
else                             model/training/choosing/defaults.py: what suits the log
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.bundle.layout import REPORT
from model.bundle.reading import Bundle
from model.prepared.loader import Prepared
from model.training.choosing.defaults import suited
from model.training.choosing.trying import tried
from model.training.recipe import RECIPES, Recipe, RecipeError, choose_recipe, load_recipe, parse

SUITED, WARM = "suited", "warm"


@dataclass(frozen=True)
class Choice:
    """A recipe with where it comes from: the files' names, SUITED or WARM."""

    recipe: Recipe
    recipe_from: list[str] | str
    reasons: tuple[str, ...]

    @property
    def source(self) -> str:
        named = {SUITED: "suited to the log, which no recipe was made for", WARM: "the bundle's own"}
        return named[self.recipe_from] if isinstance(self.recipe_from, str) else ", ".join(self.recipe_from)

    def lines(self) -> Iterator[str]:
        """For people: which, and a line for each reason."""
        yield f"recipe: {self.source}"
        yield from (f"  {reason}" for reason in self.reasons)


def choose(network: str, data: Prepared, named: str | Path | None = None, warm: Bundle | None = None) -> Choice:
    """The recipe of a run. Raises OptionError for one that cannot be read, or a name that is not there."""
    dataset = data.meta["dataset"]
    if warm and not named and (own := _of_bundle(warm, network)):
        return Choice(own, WARM, (f"--warm {warm.folder} was trained by it",))
    paths = choose_recipe(network, dataset, named)
    if paths:
        reason = "named by --recipe" if named else f"made for the data set {dataset}"
        return Choice(load_recipe(paths, network), [_short(path) for path in paths], (reason,))
    chosen = suited(data, network)
    if chosen.rival is None:
        return Choice(chosen.recipe, SUITED, chosen.reasons)
    anew, kept = tried(data, network, [chosen.recipe, chosen.rival.recipe])
    reason = f"Both were tried on validation: tables anew at every epoch {anew:.4f}, tables kept {kept:.4f}."
    taken = chosen if anew >= kept else chosen.rival
    return Choice(taken.recipe, SUITED, (*taken.reasons, reason))


def _of_bundle(bundle: Bundle, network: str) -> Recipe | None:
    """The recipe that its report holds; None where an older release wrote none."""
    try:
        content = json.loads((bundle.folder / REPORT).read_text()).get("recipe")
    except (OSError, ValueError) as error:
        raise RecipeError(f"--warm {bundle.folder}: {REPORT} cannot be read ({error}); name a --recipe") from None
    return parse(content, network, f"--warm {bundle.folder}: {REPORT}") if content else None


def _short(path: Path) -> str:
    """A recipe of the project by its place in the project, wherever that is installed."""
    return str(path.relative_to(RECIPES.parents[1])) if path.parent == RECIPES else str(path)
