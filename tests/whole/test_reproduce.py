"""The papers' table: what is done is not done again, what fails is told, and the page shows what was measured."""

import json
import os
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from model import reproduce
from model.bundle.reading import Bundle
from model.evaluation.boosting.kept import boosted_scores
from model.evaluation.measure import floor_scores, score_rows
from model.evaluation.rules import rule_scores
from model.networks.blocks import RankingNetwork
from model.options import OptionError
from model.prepared.loader import Prepared
from model.reproduction import page, probes
from model.reproduction.gather import Exam, Finished, gather
from model.reproduction.variants import ABLATIONS, DEFAULT, ablations, parse, parse_all
from model.training.batches import tensors
from model.training.recipe import choose_recipe, load_recipe
from tests.processes import started, wait_until

QUICK = "epochs=1:mlp=16:refit=false:evaluations=2"
WDL, BST = f"wdl:{QUICK}:batch_size=256:checkpoint_s=0", f"bst:{QUICK}"
BROKEN, PEEKING = f"bst:heads=7:{QUICK}", f"wdl:{QUICK}:select=test"
PEER = "another library's BST"


@dataclass
class Story:
    """One folder, and what every command that was run on it printed, returned and left there."""

    data: Prepared
    out: Path
    status: list[int] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    written: list[dict[str, int]] = field(default_factory=list)  # when each result was
    contents: list[dict[str, Any]] = field(default_factory=list)  # report.json

    def run(self, *arguments: str) -> None:
        with redirect_stdout(StringIO()) as kept:
            self.status.append(reproduce.main(["--data", str(self.data.folder), "--out", str(self.out), *arguments]))
        self.printed.append(kept.getvalue())
        self.written.append({str(path.parent): path.stat().st_mtime_ns for path in self.results()})
        self.contents.append(json.loads((self.out / "report.json").read_text()))

    def results(self) -> list[Path]:
        return sorted(self.out.glob("runs/*/*/result.json"))

    def folder(self, label: str, seed: int = 1) -> Path:
        return self.out / "runs" / parse(label).folder / str(seed)

    def html(self) -> str:
        return (self.out / "report.html").read_text()


@pytest.fixture(scope="module")
def story(small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """0: after a SIGKILL, the same command. 1: with more networks, after a recipe has changed. 2: the report alone."""
    folder = tmp_path_factory.mktemp("reproduce")
    made = Story(small_data, folder / "out")
    command = ["-m", "model.reproduce", "--data", str(small_data.folder), "--out", str(made.out)]
    usual = ["--seeds", "1", "--resamples", "100"]
    first = ["--networks", f"{WDL},{BST}", *usual]
    with started(*command, *first) as reproduction:
        checkpoint = made.folder(WDL) / "checkpoint.pt"
        wait_until(lambda: checkpoint.exists() or reproduction.process.poll() is not None, reproduction)
        reproduction.kill()
    assert not made.results(), "the run was over before it was killed"
    made.run(*first)

    result = json.loads((made.folder(WDL) / "result.json").read_text())
    result["identity"]["recipe"]["training"]["learning_rate"] = 0.5  # as if the recipe had been edited since
    (made.folder(WDL) / "result.json").write_text(json.dumps(result))
    result = json.loads((made.folder(BST) / "result.json").read_text())
    del result["identity"]["recipe"]["training"]["table_deviation"]  # as if a release without it had trained it
    (made.folder(BST) / "result.json").write_text(json.dumps(result))
    os.utime(made.folder(BST) / "result.json", ns=(0, made.written[0][str(made.folder(BST))]))
    scores: dict[str, Any] = {PEER: np.random.default_rng(0).random(len(small_data.of_split("test")))}
    np.savez(folder / "peers.npz", **scores)
    peers = ["--peers-scores", str(folder / "peers.npz"), "--trials", f"{BST}=30", f"{PEER}=3"]
    made.run("--networks", ",".join([WDL, BROKEN, BST, PEEKING]), *usual, *peers)

    (made.out / "report.html").unlink()
    made.run("--report-only", "--resamples", "100", *peers)
    return made


def test_a_killed_run_goes_on_from_its_checkpoint(story: Story) -> None:
    assert f"{WDL} seed 1: goes on from its checkpoint" in story.printed[0] and story.status[0] == 0
    assert not list(story.out.rglob("checkpoint.pt")), "a run that is done needs no checkpoint"


def test_what_is_done_is_not_trained_again_and_what_has_changed_is(story: Story) -> None:
    before, after = story.written[0], story.written[1]
    assert before[str(story.folder(BST))] == after[str(story.folder(BST))], "a setting came, with its default"
    assert before[str(story.folder(WDL))] < after[str(story.folder(WDL))]
    assert "1 of 4 runs are done already" in story.printed[1]
    assert f"{WDL} seed 1: was done before, and since then recipe.training.learning_rate" in story.printed[1]
    assert story.written[2] == after and story.status[2] == 1, "a report alone trains nothing"


def test_the_first_seed_of_all_comes_before_the_second_of_any(small_data: Prepared, tmp_path: Path) -> None:
    tasks = reproduce.plan(small_data, parse_all(["wdl", "bst", "bst:b=2"]), 2, tmp_path)
    assert [(task.variant.label, task.seed) for task in tasks] == [
        ("wdl", 1), ("bst", 1), ("bst:b=2", 1), ("wdl", 2), ("bst", 2), ("bst:b=2", 2),
    ]  # fmt: skip
    assert len({task.folder for task in tasks}) == 6


def test_a_network_that_fails_is_told_with_its_reason_and_the_others_go_on(story: Story) -> None:
    line = json.loads(story.printed[1].splitlines()[-1])
    assert story.status[1] == 1 and set(line["failed"]) == {BROKEN}
    assert "7 heads cannot split" in line["failed"][BROKEN]["1"]
    assert "7 heads cannot split" in story.html() and BROKEN not in line["networks"]


def test_the_figures_are_those_of_the_exported_model(story: Story) -> None:
    data, entry = story.data, story.contents[-1]["networks"][BST]
    rows = data.of_split("test")
    label = data.label[rows]
    (bundle,) = story.folder(BST).glob("bundles/*/2*")
    found = roc_auc_score(label, score_rows(Bundle.open(bundle), data, rows))
    assert entry["auc"] == pytest.approx([found]) and entry["auc_mean"] == entry["auc"][0]
    assert entry["ci95"][0] < entry["auc_mean"] < entry["ci95"][1] and entry["auc_sd"] is None
    assert entry["recipe_from"] == ["model/recipes/simulated.toml", "model/recipes/bst_simulated.toml"]
    assert "by model/recipes/simulated.toml" in story.html() and "To look at first" in story.html()
    assert entry["parameters"] > 1000 and entry["rows_per_s"] > 0 and len(entry["curves"]["1"]) == 2
    floor = roc_auc_score(label, floor_scores(data, rows))
    assert story.contents[-1]["floor_auc"] == pytest.approx(floor)
    assert entry["to_floor"]["mean"] == pytest.approx(found - floor)
    boosted = roc_auc_score(label, boosted_scores(data, rows))
    assert story.contents[-1]["gbdt_auc"] == pytest.approx(boosted)
    assert entry["to_boosted"]["mean"] == pytest.approx(found - boosted)
    assert entry["below_boosted"] == (found < boosted)
    assert f"gradient boosting                {boosted:.4f}" in story.printed[-1].splitlines()
    assert "gradient boosting, on train" in story.html()
    assert story.contents[-1]["oracle_auc"] == pytest.approx(
        roc_auc_score(label, data.arrays["true_probability"][rows])
    )


def finished(label: str, seed: int, scores: np.ndarray, **told: Any) -> Finished:
    result: dict[str, Any] = {
        "identity": {"recipe": {}},
        "figures": {"gauc": 0.5 + seed / 10, "logloss": None},
        "trained_on": ["train"],
        "objective": "click",
        "rows_per_s": 100 * seed,
        **dict.fromkeys(("parameters", "seconds"), 1),
        "curve": [{"epochs": 1.0, "auc": 0.7, "picked_by": 0.7, "train_loss": 0.2}],
        **dict.fromkeys(("attention", "versions", "machine")),
        "failed": None,
    }
    return Finished(parse(label), seed, result | told, scores)


def test_seeds_are_averaged_and_compared_on_the_same_users(small_data: Prepared) -> None:
    exam, chance = Exam(small_data, resamples=200), np.random.default_rng(3)
    truth = np.asarray(small_data.arrays["true_probability"][exam.rows])

    def guess(noise: float) -> np.ndarray:
        return truth + noise * chance.normal(size=len(truth))

    scores = {("bst", 1): guess(0.02), ("bst", 2): guess(0.02), ("wdl", 1): guess(0.4), ("wdl", 2): guess(0.4)}
    runs = [finished(label, seed, score) for (label, seed), score in scores.items()]
    names = ["wdl", "din", "bst"]
    content = gather(exam, parse_all(names), runs, planned=6, peers={"x": [guess(0.02), guess(0.02)]})
    aucs = {key: roc_auc_score(exam.label, score) for key, score in scores.items()}
    wdl, bst = content["networks"]["wdl"], content["networks"]["bst"]
    assert bst["auc"] == pytest.approx([aucs["bst", 1], aucs["bst", 2]])
    assert bst["auc_mean"] == pytest.approx(np.mean(bst["auc"])) and bst["auc_sd"] == pytest.approx(
        abs(bst["auc"][0] - bst["auc"][1]) / np.sqrt(2)
    )
    assert bst["gauc"] == pytest.approx(0.65) and bst["logloss"] is None and bst["rows_per_s"] == 150
    assert wdl["to_reference"]["mean"] == pytest.approx(wdl["auc_mean"] - bst["auc_mean"])
    assert wdl["to_reference"]["high"] < 0 and wdl["below_floor"] and bst["to_reference"] is None
    assert content["order"][0]["low"] > 0, "din has no run: wdl and bst are the neighbours"
    assert len(content["networks"]["x"]["auc"]) == 2 and "auc_mean" not in content["networks"]["din"]
    assert (
        page.html(content | {"made": "", "with": "", "versions": {}, "machine": {}}).count("below the floor</span>")
        == 1
    )


def test_a_peer_of_another_name_stands_beside_the_network_that_validation_picks(small_data: Prepared) -> None:
    """By the looks whose weights were kept; where none looked, beside the reference."""
    exam = Exam(small_data, resamples=20)
    scores = np.random.default_rng(4).random((3, len(exam.rows)))
    looks = {
        "bst": [{"auc": 0.6, "picked_by": 0.6}],
        "wdl": [{"auc": 0.5, "picked_by": 0.4}, {"auc": 0.9, "picked_by": 0.1}],
        "din": [{"auc": 0.7, "picked_by": 0.7}],
    }
    for curves, ours in ((looks, "din"), (dict.fromkeys(looks, []), None)):
        runs = [finished(name, 1, own, curve=curves[name]) for name, own in zip(looks, scores, strict=True)]
        content = gather(exam, parse_all(list(looks)), runs, planned=3, peers={"X DCNv2": [scores[0]]})
        assert content["chosen"] == ours
        assert [(pair["ours"], pair["theirs"]) for pair in content["against_peers"]] == [(ours or "bst", "X DCNv2")]


def test_the_last_line_compares_every_network_to_bst(story: Story) -> None:
    line = json.loads(story.printed[1].splitlines()[-1])
    networks, content = line["networks"], story.contents[1]
    assert set(networks) == {WDL, BST, PEER} and Path(line["report"]).is_file()
    apart = line["differences"][WDL]
    assert set(line["differences"]) == {WDL, PEER} and apart["to"] == BST
    assert apart["mean"] == pytest.approx(networks[WDL]["auc_mean"] - networks[BST]["auc_mean"])
    assert apart["low"] < apart["mean"] < apart["high"]
    assert [(pair["worse"], pair["better"]) for pair in line["order"]] == [(WDL, BST)]
    assert line["order"][0]["mean"] == pytest.approx(-apart["mean"])
    assert networks[PEER]["below_floor"] and networks[PEER]["auc_mean"] == pytest.approx(0.5, abs=0.1)
    looks = {name: max(look["auc"] for look in content["networks"][name]["curves"]["1"]) for name in (WDL, BST)}
    assert line["chosen"] == max(looks, key=lambda name: looks[name])
    assert [(pair["ours"], pair["theirs"]) for pair in line["against_peers"]] == [
        (ours, PEER) for ours in dict.fromkeys([BST, line["chosen"]])
    ], "of its name, and the best on validation"
    against = line["against_peers"][0]
    assert against["low"] > 0
    assert against["mean"] == pytest.approx(networks[BST]["auc_mean"] - networks[PEER]["auc_mean"])
    bounds = ("floor_auc", "gbdt_auc", "oracle_auc")
    assert [line[bound] for bound in bounds] == [content[bound] for bound in bounds]


def test_rules_stand_beside_the_networks_and_budgets_beside_the_peers(story: Story) -> None:
    line, content, html = json.loads(story.printed[1].splitlines()[-1]), story.contents[1], story.html()
    rows = story.data.of_split("test")
    expected = {name: roc_auc_score(story.data.label[rows], own) for name, own in rule_scores(story.data, rows).items()}
    assert line["rules"] == pytest.approx(expected) and "rule: category recency" in html
    best = max(expected, key=lambda name: expected[name])
    to = content["networks"][BST]["to_rule"]
    assert to["rule"] == best and to["mean"] == pytest.approx(content["networks"][BST]["auc_mean"] - expected[best])
    assert content["networks"][PEER]["below_rule"]
    against = content["against_peers"][0]
    assert f"best on validation ({content['chosen']})" in html
    assert (against["our_trials"], against["their_trials"]) == (30, 3) and "30 and 3 (unequal)" in html
    assert 0 < line["gauc_coverage"]["impressions"] <= 1 and line["test_opened"]["recipes"] >= 3
    assert "Nobody was shown the negatives" not in html, "the simulator shows all of its impressions"
    content = json.loads(json.dumps(content))
    content["data"]["repeats"] = {"positives": 0.15, "negatives": 0.0}
    content["networks"][BST]["auc_without_repeats"] = 0.7654
    spoken = page.html(content)
    assert "15.0% of the positives" in spoken and "0.7654" in spoken


def test_tuning_on_test_is_a_warning_and_never_a_result(story: Story) -> None:
    line, html = json.loads(story.printed[1].splitlines()[-1]), story.html()
    assert PEEKING in line["tuned_on_test"] and PEEKING not in {**line["networks"], **line["differences"]}
    assert html.count("Warning, no result:</strong> " + PEEKING) == 1
    tables = re.findall("<table>.*?</table>", html, re.DOTALL)
    assert any(BST in table for table in tables) and not any(PEEKING in table for table in tables)
    assert not any(PEEKING in plot for plot in re.findall("<svg.*?</svg>", html, re.DOTALL))
    content = json.loads(json.dumps(story.contents[-1]))
    content["networks"][PEEKING]["auc_mean"] = 0.99
    assert "<strong>0.99" not in page.html(content), "it is set in bold as the best"


def test_scoring_times_are_relative_to_wdl(story: Story) -> None:
    networks = story.contents[-1]["networks"]
    assert networks[WDL]["over_wdl"] == {"100": 1.0, "500": 1.0}
    for count in ("100", "500"):
        ours, of_wdl = networks[BST]["score_ms"][count], networks[WDL]["score_ms"][count]
        assert networks[BST]["over_wdl"][count] == pytest.approx(ours / of_wdl) and ours > 0


def test_the_report_alone_says_what_was_said_before(story: Story) -> None:
    before, after = (dict(content) for content in story.contents[1:3])
    assert before.pop("made") and after.pop("made") and before == after
    assert story.printed[2].splitlines()[-1] == story.printed[1].splitlines()[-1]


def test_the_page_needs_nothing_from_anywhere_and_says_whose_data_it_is(story: Story) -> None:
    html = story.html()
    addresses = set(re.findall(r"""(?:href|src|url\()\s*=?\s*["']?(https?:[^"')]+)""", html))
    assert not addresses and "<script" not in html and "<link" not in html and "@import" not in html
    assert html.count("<svg") == 5, "AUC, training, calibration, history, attention"
    assert "The papers' data are not these data" in html and "0.7894" in html and "0.8921" in html
    assert "another library&#39;s BST" in html and story.contents[-1]["networks"][PEER]["below_floor"]
    assert str(story.out) not in html and str(story.data.folder) not in html
    assert "Not finished" not in html
    content = json.loads(json.dumps(story.contents[-1]))
    content["progress"]["planned"] += 3
    assert "Not finished:</strong> 4 of 7 runs" in page.html(content)


class Newest(RankingNetwork):
    """Attends to the newest behaviour alone, and half as much to the target."""

    def attention(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        visible = (batch["gap"] != 0).sum(-1)
        weight = torch.zeros(*batch["gap"].shape[:1], 1, batch["gap"].shape[1] + 1)
        weight[torch.arange(len(visible)), 0, visible - 1] = 1.0
        weight[:, 0, -1] = 0.5
        return weight


def test_attention_is_told_by_place_from_the_newest_and_by_gap(small_data: Prepared) -> None:
    rows = small_data.of_split("test")
    length = small_data.schema.history.length
    before = probes.behaviours_before(small_data, rows)
    rows, before = rows[before >= length], before[before >= length]
    assert probes.ATTENDED > len(rows) > 100, "all of the full histories are looked at, and no others"
    found = probes.attention_by_recency(Newest(), small_data, rows)
    assert found is not None
    assert found["places"] == pytest.approx([length] + [0] * (length - 1)), "relative to even attention, 1 / T"
    assert found["target"] == pytest.approx(length / 2)
    gaps = small_data.batch(rows)["gap"]
    newest, every = (np.bincount(of.reshape(-1), minlength=40) for of in (gaps[:, -1], gaps))
    for told in found["gaps"]:
        bucket = 1 if told["from_s"] == 0 else small_data.schema.history.gap_edges_s.index(told["from_s"]) + 2
        assert told["weight"] == pytest.approx(length * newest[bucket] / every[bucket])
    assert probes.attention_by_recency(RankingNetwork(), small_data, rows) is None


def test_auc_by_history_is_the_auc_of_impressions_with_so_many_behaviours(small_data: Prepared) -> None:
    rows = small_data.of_split("train")
    score = np.random.default_rng(1).random(len(rows)) + 0.3 * small_data.label[rows]
    found = probes.auc_by_history(small_data, rows, score)
    assert found[3] is not None and len(found) == len(probes.HISTORY_BINS) and probes.HISTORY_BINS[3] == (6, 10)
    seen = (tensors(small_data.batch(rows))["gap"] != 0).sum(-1).numpy()  # below T = 20, all that came before is seen
    chosen = (seen >= 6) & (seen <= 10)
    assert found[3] == pytest.approx(roc_auc_score(small_data.label[rows][chosen], score[chosen]))
    assert probes.auc_by_history(small_data, rows[:40], score[:40]) == [None] * len(found), "too few to tell"


def test_options_go_on_top_of_the_networks_recipe() -> None:
    base = load_recipe(choose_recipe("bst", "simulated", None), "bst")
    made = parse("bst:b=2:mlp=64-32:dropout=0:learning_rate=1e-3:history=50:refit=false").recipe(base)
    assert made.network == base.network | {"blocks": 2, "mlp": (64, 32), "dropout": 0.0}
    assert (made.training.learning_rate, made.training.refit, made.history) == (0.001, False, {"length": 50})
    assert made.training.optimiser == base.training.optimiser and made.features == base.features


def test_a_variant_is_the_same_however_it_is_written() -> None:
    one, other = parse("bst:b=2:dropout=0"), parse("bst:dropout=0.0:blocks=2")
    assert one.folder == other.folder and one.label != other.label
    assert [v.label for v in parse_all(["din", "bst:b=2:dropout=0", "bst:dropout=0.0:blocks=2"])] == ["din", one.label]


def test_common_options_go_to_every_variant_that_does_not_set_them_itself() -> None:
    bst, deep = parse_all(["bst", "bst:b=2:epochs=7"], "epochs=2:refit=false")
    assert (bst.label, deep.label) == ("bst", "bst:b=2:epochs=7")
    assert bst.folder == parse("bst:epochs=2:refit=false").folder
    assert dict(deep.options) == {"blocks": 2, "epochs": 7, "refit": False}
    assert all(dict(v.options)["epochs"] == 2 for v in ablations(bst, "epochs=2"))
    with pytest.raises(OptionError, match="option 'epoch=2'"):
        parse_all(["bst"], "epoch=2")


def test_each_ablation_is_one_switch_away() -> None:
    base = parse("bst:epochs=1")
    switched = ablations(base)
    assert len(switched) == len(ABLATIONS) and len({v.folder for v in switched}) == len(switched)
    assert all(len(set(v.options) - set(base.options)) == 1 for v in switched)
    assert [v.label for v in switched if v.peeks] == ["bst:epochs=1:select=test"]
    assert len(ablations(parse("bst:history=5"))) == len(ABLATIONS) - 5, "a switch that is set already is left out"
    assert all(parse(label) for label in DEFAULT)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("bert", "network 'bert', allowed: .*bst"),
        ("bst:colour=red", "option 'colour=red', allowed.*history.*learning_rate.*blocks"),
        ("bst:blocks", "option 'blocks', allowed"),
        ("bst:b=1:blocks=2", "option 'blocks=2', allowed: once each"),
        ("bst:b=two", "blocks 'two', allowed: whole number"),
        ("bst:mlp=64-x", "mlp '64-x', allowed: list of: whole number"),
        ("bst:history=0", "history '0', allowed: whole number from 1"),
    ],
)
def test_a_wrong_variant_says_what_is_allowed(label: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        parse(label)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--networks", "bert"], "network 'bert', allowed"),
        (["--networks", "bst:select=never"], "select 'never', allowed: validation, test"),
        (["--seeds", "0"], "0 seeds .* at least 1"),
        (["--networks", "din", "--ablations"], "ablations are of bst, which --networks does not name"),
        (["--data", "{tmp}"], "no prepared data set"),
        (["--out", "{tmp}"], "holds something else (short.npz, strings.npz, text.npz)"),
        (["--out", "{tmp}/text.npz"], "text.npz is no folder"),
        (["--report-only"], "holds no report.json"),
        (["--peers-scores", "{tmp}/text.npz"], "text.npz is no .npz file of scores"),
        (["--peers-scores", "{tmp}/short.npz"], "'x' is float64 (3,); expected are {rows} finite scores"),
        (["--peers-scores", "{tmp}/strings.npz"], "expected are {rows} finite scores"),
        (["--peers-scores", "{tmp}/nowhere.npz"], "nowhere.npz is not there"),
        (["--trials", "bst=many"], "--trials 'bst=many'; a network or a peer and a whole number are allowed: bst=20"),
    ],
)
def test_wrong_input_is_one_line(
    small_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "text.npz").write_text("nothing of the kind")
    np.savez(tmp_path / "short.npz", x=np.zeros(3))
    np.savez(tmp_path / "strings.npz", x=np.full(len(small_data.of_split("test")), "a"))
    usual = ["--data", str(small_data.folder), "--out", str(tmp_path / "new")]
    assert reproduce.main([*usual, *(argument.format(tmp=tmp_path) for argument in arguments)]) == 1
    said = capsys.readouterr().err
    expected = (
        re.escape(says.format(rows=len(small_data.of_split("test")))).replace(r"\.\*", ".*").replace(r" \.", " .")
    )
    assert said.startswith("reproduce: ") and said.count("\n") == 1 and re.search(expected, said), said
    assert not (tmp_path / "new").exists()


def test_test_data_of_one_class_cannot_be_compared_on(small_data: Prepared, tmp_path: Path) -> None:
    spoiled = Prepared(small_data.folder)
    spoiled.label = np.zeros_like(spoiled.label)
    with pytest.raises(reproduce.ReproduceError, match="0 clicks among .* both classes are needed"):
        reproduce.check(spoiled, tmp_path / "new")
