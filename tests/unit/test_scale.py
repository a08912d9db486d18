"""docs/scale.md: its inputs stand where it says, and its formulas give its results."""

import math
import re

import pytest

from loadtest.bench.bundles import schema
from model import networks
from model.graph.tables import FORMS
from service.settings import Settings
from tests.markdown import DOCS, section

PAGE = (DOCS / "scale.md").read_text()
INPUTS, WORKED_OUT = PAGE.split("\n## Serving\n")
INPUT = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| ([\d,. ]+) \|(.*)\|$", re.MULTILINE)
RESULT = re.compile(r"^\| .+ \| `(\w+) = (.+)` \| ([\d,.]+) \|$", re.MULTILINE)
MEASURED = INPUTS.partition("\nMeasured")[2].partition("\nRead off the code")[0]
AGAIN = re.compile(r"`(\w+)`: ([\d,.]*\d)")
WIDTH = re.compile(r"^\| (\d+) \| ([\d,.]+) \| ([\d,.]+) \| ([\d,.]+) \|$", re.MULTILINE)
SOURCE = re.compile(r"\[(?:LOG|benchmarks)\]\(([^#)]+)#([^)]+)\)")


def number(text: str) -> float:
    return float(text.replace(",", ""))


def inputs() -> dict[str, float]:
    found = {}
    for names, values, _ in INPUT.findall(INPUTS):
        found |= dict(zip(re.findall(r"\w+", names), map(number, values.split(", ")), strict=True))
    return found


def test_every_result_of_the_page_of_scale_is_what_its_formula_gives() -> None:
    names, wrong, used = inputs(), [], set()
    for name, formula, told in RESULT.findall(WORKED_OUT):
        names[name] = value = eval(formula, {"__builtins__": {}, "ceil": math.ceil}, names)
        used |= set(re.findall(r"[a-z]\w*", formula))
        if not math.isclose(value, number(told), rel_tol=0.01):
            wrong.append(f"{name}: {value:.4g}, told {told}")
    for name, told in AGAIN.findall(WORKED_OUT.partition("## Walls")[2]):
        if not math.isclose(names[name], number(told), rel_tol=0.01):
            wrong.append(f"{name}: {names[name]:.4g}, told {told} among the walls")
    assert not wrong
    assert len(RESULT.findall(WORKED_OUT)) == len(re.findall(r"\| `\w+ = ", WORKED_OUT)), "a row that cannot be read"
    assert set(inputs()) <= used, "an input that no formula needs"


@pytest.mark.parametrize("row", WIDTH.findall(WORKED_OUT), ids=lambda row: f"width {row[0]}")
def test_bytes_of_tables_are_rows_times_what_a_row_takes_in_each_form(row: tuple[str, ...]) -> None:
    width, *told = map(number, row)
    assert told == [inputs()["big_items"] * form.row_bytes(int(width)) / 10**9 for form in FORMS.values()]


@pytest.mark.parametrize(("names", "value", "rest"), INPUT.findall(MEASURED))
def test_a_measured_input_stands_in_the_entry_that_it_names(names: str, value: str, rest: str) -> None:
    ((page, anchor),) = SOURCE.findall(rest)
    assert re.search(rf"(?<![\d.,]){re.escape(value)}(?!\d)", section((DOCS / page).resolve(), anchor)), names


def test_what_the_page_reads_off_the_code_is_there() -> None:
    table, told = schema(), inputs()
    network = networks.build("bst", table, {feature.name: 10 for feature in table.features})
    tables = sum(part.weight.numel() for part in network.modules() if type(part).__name__ == "Embedding")
    assert sum(weight.numel() for weight in network.parameters()) - tables == told["dense"]
    widths = {feature.name: feature for feature in table.features}
    assert (widths["item_id"].sequence_width, widths["user_id"].width) == (told["width"], told["user_width"])
    assert (len(table.side("context")), len(table.crosses)) == (told["context"], told["crosses"])
    assert Settings().history_connections == told["connections"]
