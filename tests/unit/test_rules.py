"""Rules without learning: recounted behaviour by behaviour; and how often test was opened."""

from dataclasses import asdict
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from model.datasets.tables import DataSet
from model.evaluation import rules
from model.evaluation.measure import measure
from model.evaluation.metrics import auc
from model.evaluation.opened import FILE, count, opened
from model.evaluation.rules import NEVER, met, repeats, rule_scores
from model.features.ids import PAD
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from tests.worlds import SMALL, make_schema, write_log

SHANGHAI = "Asia/Shanghai"


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Coin throws with ties and missing categories, as a log of drawn negatives; networks see two behaviours."""
    folder = tmp_path_factory.mktemp("odd")
    write_log(folder)
    encode_tables(folder, make_schema(length=2), DataSet("odd", SHANGHAI, drawn_negatives=True))
    return Prepared(folder)


def earlier(data: Prepared, row: int) -> list[int]:
    """Behaviours of the impression's user strictly before it, however many a network sees."""
    a = data.arrays
    own = range(a["begin"][a["user"][row]], [*a["begin"], len(a["clicked"])][a["user"][row] + 1])
    return [at for at in own if a["clicked_at"][at] < a["time"][row]]


@pytest.mark.parametrize("block", [1, 70, 4_000_000])
def test_what_behaviours_share_with_the_candidate_is_recounted_one_by_one(
    odd_data: Prepared, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(rules, "BLOCK", block)
    a, chance = odd_data.arrays, np.random.default_rng(2)
    values = np.sort(chance.integers(0, 9, (len(a["items"]), 3)), axis=1)
    values[:, 1:][values[:, 1:] == values[:, :-1]] = PAD  # each value once
    rows = chance.permutation(len(odd_data.label))[:400]
    newest, shared = met(odd_data, rows, values)
    for n, row in enumerate(rows):
        own = set(values[a["item"][row]]) - {PAD}
        common = [(at, len(own & set(values[a["clicked"][at]]))) for at in earlier(odd_data, row)]
        assert shared[n] == sum(number for _, number in common)
        assert newest[n] == max((at for at, number in common if number), default=-1)


def test_the_rules_look_at_the_whole_history_and_put_what_was_met_first(odd_data: Prepared) -> None:
    a, rows = odd_data.arrays, odd_data.of_split("test")
    scores = rule_scores(odd_data, rows)
    category = a["items"][:, odd_data.schema.places("item")["category_id"].start]
    train = odd_data.of_split("train")
    beyond = 0
    for n, row in enumerate(rows):
        item, before = a["item"][row], earlier(odd_data, row)
        beyond += len(before) > odd_data.schema.history.length
        same = [at for at in before if a["clicked"][at] == item]
        alike = [at for at in before if category[a["clicked"][at]] == category[item] != PAD]
        for name, of in (("item_recency", same), ("category_recency", alike)):
            assert scores[name][n] == (a["clicked_at"][of[-1]] - a["time"][row] if of else NEVER)
        assert scores["category_share"][n] == len(alike) / max(1, len(before))
        assert (scores["seen_then_category"][n] > 0) == bool(same)
        assert scores["popularity"][n] == odd_data.label[train][odd_data.item[train] == item].sum()
    assert beyond > 50 and "path_overlap" not in scores, "this log has no path"
    seen = scores["item_recency"] > NEVER
    assert scores["seen_then_category"][seen].min() > scores["seen_then_category"][~seen].max()


def test_a_repeat_is_what_the_user_met_earlier_on_the_same_local_day(odd_data: Prepared) -> None:
    a, rows = odd_data.arrays, np.arange(len(odd_data.label))

    def day(ms: int) -> object:
        return datetime.fromtimestamp(ms / 1000, ZoneInfo(SHANGHAI)).date()

    expected = [
        any(a["clicked"][at] == a["item"][row] and day(a["clicked_at"][at]) == day(a["time"][row]) for at in at_before)
        for row, at_before in ((row, earlier(odd_data, row)) for row in rows)
    ]
    repeated = repeats(odd_data, rows)
    assert repeated.tolist() == expected and repeated.any() and not repeated.all()

    label, score = odd_data.label, np.random.default_rng(0).random(len(rows))
    figures = measure(odd_data, rows, score, boosting=False)
    assert figures["auc_without_repeats"] == auc(label[~repeated], score[~repeated])
    assert figures["repeats"]["positives"] == repeated[label > 0].mean()
    assert (figures["scores"], figures["rate"]) == ("relative", label.mean()), "drawn negatives promise no click rate"


def test_without_behaviours_popularity_is_left(odd_data: Prepared) -> None:
    data = Prepared(odd_data.folder)
    none = {name: data.arrays[name][:0] for name in ("clicked", "clicked_at", "acted")}
    data.arrays = data.arrays | none | {name: data.arrays[name] * 0 for name in ("begin", "end")}
    rows = data.of_split("test")
    assert list(rule_scores(data, rows)) == ["popularity"] and not repeats(data, rows).any()


def test_a_log_of_exposures_has_rules_and_no_repeats(small_data: Prepared) -> None:
    rows = small_data.of_split("train")  # whose rows have no trees to be fitted
    figures = measure(small_data, rows, rule_scores(small_data, rows)["popularity"])
    assert figures["rules"]["popularity"] == figures["auc"] and len(figures["rules"]) > 4
    assert figures["auc_without_repeats"] is None and figures["repeats"] is None
    assert figures["scores"] == "probabilities" and 0 < figures["gauc_coverage"] <= 1


def test_openings_of_test_are_counted_by_recipe_until_the_data_are_prepared_anew(odd_data: Prepared) -> None:
    recipe, other = asdict(SMALL), asdict(SMALL) | {"network": {"mlp": (8,)}}
    assert count(odd_data) == {"times": 0, "recipes": 0}
    opened(odd_data, "bst", recipe, seed=1)
    opened(odd_data, "bst", recipe, seed=2)
    opened(odd_data, "din", recipe, seed=1)
    counts = opened(odd_data, "bst", other, seed=1)
    assert counts == {"times": 4, "recipes": 3, "recipes_of_network": 2, "times_by_this_recipe": 1}
    path = odd_data.folder / FILE
    with path.open("a") as file:
        file.write('{"network": "bst"\n[]\n')  # cut short; no opening at all
    assert count(odd_data)["times"] == 4
    path.write_text(path.read_text().replace(odd_data.fingerprint, "of other data"))
    assert count(odd_data)["times"] == 0
