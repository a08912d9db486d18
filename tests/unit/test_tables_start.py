"""What embedding tables hold before a step: Glorot's uniform numbers, or normal ones as small as the recipe asks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from model.features.ids import FIRST, PAD, UNKNOWN
from model.options import OptionError
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, RecipeError, Training
from model.training.run import Run

ITEMS = "embed.sequence.item_id"
BATCH = 32


def made(data: Prepared, folder: Path, table_deviation: float) -> Run:
    how = Training(optimiser="adam", batch_size=BATCH, fresh_tables=10, table_deviation=table_deviation)
    return Run(data, "din", Recipe({"mlp": [16], "position": "gap"}, how), 1, folder / "x.pt")


def tables(run: Run) -> dict[str, nn.Embedding]:
    return {name: part for name, part in run.network.named_modules() if isinstance(part, nn.Embedding)}


@pytest.mark.parametrize("deviation", [1e-4, 0.0])
@torch.no_grad()
def test_tables_start_as_the_recipe_says_and_so_again_where_they_start_anew(
    deviation: float, small_data: Prepared, tmp_path: Path
) -> None:
    run = made(small_data, tmp_path, deviation)
    first = {name: table.weight.clone() for name, table in tables(run).items()}
    assert {ITEMS, "position.table"} <= first.keys()
    with torch.enable_grad():
        run.step(run.data.of_split("train")[:BATCH])
    run.start_tables_anew()
    again = {name: table.weight for name, table in tables(run).items()}
    for start in (first, again):
        weight = start[ITEMS]
        silent, rest = weight[[PAD, UNKNOWN]], weight[FIRST:]
        bound = (6 / sum(weight.shape)) ** 0.5
        assert not silent.any() and rest.std() == pytest.approx(deviation or bound / 3**0.5, rel=0.05)
        assert rest.abs().max() > 3 * rest.std() if deviation else rest.abs().max() <= bound, "normal, or uniform"
    assert not torch.equal(first[ITEMS], again[ITEMS])
    gaps = first["position.table"]
    assert not gaps[PAD].any() and gaps[UNKNOWN:].std() < 2 * (deviation or 1.0), "its second row is a gap like others"
    assert run.identity != made(small_data, tmp_path, 0.5).identity, "no checkpoint goes on with another start"


def test_a_checkpoint_from_before_there_was_this_setting_goes_on(small_data: Prepared, tmp_path: Path) -> None:
    made(small_data, tmp_path, 0.0).save()
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    del content["identity"]["recipe"]["training"]["table_deviation"]
    torch.save(content, tmp_path / "x.pt")
    assert made(small_data, tmp_path, 0.0).resume()
    with pytest.raises(RecipeError, match="another recipe"):
        made(small_data, tmp_path, 0.5).resume()
    del content["identity"]["recipe"]["training"]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(RecipeError, match="cannot be read"):
        made(small_data, tmp_path, 0.0).resume()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("inf"), float("nan"), "0.1", True])
def test_a_deviation_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(OptionError, match="table_deviation"):
        Training(table_deviation=wrong)  # type: ignore[arg-type]
