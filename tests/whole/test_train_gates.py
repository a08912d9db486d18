"""model.train from its command line: what is published and what is not, what is told, what is kept after a Ctrl-C."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import copy
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import evaluate, train
from model.bundle.reading import Bundle
from model.bundle.versions import check_name, prune
from model.files import held
from model.graph.publish import publish
from model.prepared.loader import Prepared
from model.training.choosing.choice import SUITED, WARM, choose
from model.training.histories import empty_share
from model.training.interrupt import stopped_by_ctrl_c
from model.training.recipe import RECIPES, Recipe, RecipeError, Training, load_recipe, recipe_names
from model.training.run import Run
from tests.processes import started, wait_until

WEAK = "[network]\nmlp = [8]\n[training]\nbatch_size = 512\nevaluations = 2\nlearning_rate = 0.0001\n"  # learns nothing


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "weak.toml"
    path.write_text(WEAK)
    return path


def arguments(data: Prepared, recipe: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(data.folder), "--network", "wdl", "--out", str(out), "--recipe", str(recipe), *more]


@dataclass
class Story:
    """One folder of bundles, and what each command printed, returned and left there."""

    home: Path
    status: list[int] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    versions: list[list[str]] = field(default_factory=list)
    current: list[str | None] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(tiny_data: Prepared, weak: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Below the floor: 0 beside a checkpoint that is dropped; then `current` made by hand; 1 published all the same.

    2: --final. Each keeps one version.
    """
    out = tmp_path_factory.mktemp("bundles")
    told = Story(out / "mine.v1")
    (out / "mine.v1").mkdir()
    (out / "mine.v1" / ".training-1.pt").write_bytes(b"of a killed run")

    def run(*more: str) -> None:
        with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as err:
            told.status.append(train.main(arguments(tiny_data, weak, out, "--name", "mine.v1", *more)))
        told.lines.append(json.loads(printed.getvalue().splitlines()[-1]))
        told.err.append(err.getvalue())
        told.versions.append(sorted(path.name for path in told.home.glob("2*")))
        link = told.home / "current"
        told.current.append(os.readlink(link) if link.is_symlink() else None)

    run("--restart", "--keep", "1")
    by_hand = told.lines[0]["warnings"][0].partition("To serve it all the same: ")[2].partition(" (or")[0]
    subprocess.run(shlex.split(by_hand), check=True)
    run("--publish-anyway", "--keep", "1", "--seed", "2")
    run("--publish-anyway", "--keep", "1", "--final")
    return told


def test_a_model_below_the_floor_is_written_told_and_not_made_current(story: Story) -> None:
    line = story.lines[0]
    assert (story.status[0], line["published"], story.current[0]) == (3, False, None)
    assert line["auc"] < line["floor_auc"] and line["split"] == "test"
    assert all(f"warning: {warning}" in story.err[0] for warning in line["warnings"])
    assert "below" in line["warnings"][0] and "--publish-anyway" in line["warnings"][0]


def test_what_the_warning_says_serves_it_all_the_same(story: Story) -> None:
    assert story.versions[0] == [Path(story.lines[0]["bundle"]).name]
    assert story.versions[1][0] == story.versions[0][0], "made current by hand, so it is what one may go back to"


def test_publish_anyway_makes_it_current_and_says_so(story: Story) -> None:
    assert (story.status[1], story.lines[1]["published"]) == (0, True)
    assert story.current[1] == Path(story.lines[1]["bundle"]).name
    assert "`current` all the same" in story.lines[1]["warnings"][0]


def test_keep_removes_old_versions_but_neither_current_nor_the_one_before_it(story: Story) -> None:
    first, second, third = (Path(line["bundle"]).name for line in story.lines[:3])
    assert story.versions[1] == [first, second] and story.lines[1]["removed"] == []
    assert story.versions[2] == [second, third] and story.lines[2]["removed"] == [first]


def test_final_serves_weights_of_all_days_under_the_figures_of_the_run_before(
    story: Story, tiny_data: Prepared, weak: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(Path(story.lines[2]["bundle"]))
    report = json.loads((bundle.folder / "report.json").read_text())
    days = ["train", "validation", "test"]
    assert report["trained_on"] == bundle.manifest["trained_on"] == days
    assert report["figures_of_weights_trained_on"] == bundle.manifest["figures_of_weights_trained_on"] == ["train"]
    assert story.lines[2]["auc"] == pytest.approx(story.lines[0]["auc"], abs=1e-9), "one seed, one run before"
    assert report["recipe_from"] == [str(weak)] and report["warnings"] == story.lines[2]["warnings"]
    assert load_recipe([bundle.folder / "recipe.toml"], "wdl").training == load_recipe([weak], "wdl").training
    assert evaluate.main(["--bundle", str(bundle.folder), "--data", str(tiny_data.folder)]) == 0
    printed = capsys.readouterr()
    assert "has seen test" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["auc"] != story.lines[2]["auc"]


def test_a_killed_final_run_keeps_the_figures_of_the_run_before(
    story: Story, tiny_data: Prepared, weak: Path, tmp_path: Path
) -> None:
    recipe = load_recipe([weak], "wdl")

    class Dying(Run):
        def step(self, rows: Any, inputs: Any = None) -> torch.Tensor:
            if (self.progress["phase"], self.progress["batch"]) == ("final", 3):
                self.save()
                raise RuntimeError
            return super().step(rows, inputs)

    with pytest.raises(RuntimeError):
        train.trained(Dying(tiny_data, "wdl", recipe, 1, tmp_path / "x.pt"), final=True)
    again = Run(tiny_data, "wdl", recipe, 1, tmp_path / "x.pt")
    assert again.resume() and again.progress["phase"] == "final"
    with pytest.raises(RecipeError, match="a run with --final; go on with --final"):
        train.trained(again, final=False)
    exam = train.trained(again, final=True)
    assert exam is not None and exam.judged["auc"] == pytest.approx(story.lines[2]["auc"], abs=1e-9)
    whole = torch.load(Path(story.lines[2]["bundle"]) / "weights.pt", weights_only=True)
    assert all(torch.equal(tensor, again.network.state_dict()[name]) for name, tensor in whole.items())


def refused(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> str:
    assert train.main(list(argv)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_checkpoint_of_a_killed_run_is_neither_lost_nor_taken_up_unasked(
    tiny_data: Prepared, weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tmp_path / "wdl_simulated" / ".training-1.pt"
    left.parent.mkdir()
    left.write_bytes(b"half")
    line = refused(capsys, arguments(tiny_data, weak, tmp_path))
    assert "--resume goes on from it" in line and "--restart" in line
    assert "cannot be read" in refused(capsys, arguments(tiny_data, weak, tmp_path, "--resume")) and left.exists()


def test_two_trainings_of_one_name_and_seed_do_not_share_a_checkpoint(
    tiny_data: Prepared, weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wdl_simulated").mkdir()
    with held(tmp_path / "wdl_simulated" / ".training-1.lock"):
        line = refused(capsys, arguments(tiny_data, weak, tmp_path))
    assert f"process {os.getpid()}" in line and "--name" in line
    assert not list((tmp_path / "wdl_simulated").iterdir())


def test_what_is_refused_leaves_no_folder(
    tiny_data: Prepared, weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[features]\ncolour = { width = 3 }\n")
    assert "unknown colour" in refused(capsys, arguments(tiny_data, wrong, tmp_path / "out"))
    for name in ("../x", ".hidden", "a b", ""):
        with pytest.raises(ValueError, match="allowed: letters, digits"):
            check_name(name)
    assert "cannot name a bundle" in refused(capsys, arguments(tiny_data, weak, tmp_path / "out", "--name", "../x"))
    assert "cannot name a bundle" in refused(capsys, arguments(tiny_data, weak, tmp_path / "out", "--name", ""))
    assert not (tmp_path / "out").exists()


def test_a_sequence_network_whose_histories_are_all_empty_is_refused_at_once(
    tiny_data: Prepared, weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data.folder, tmp_path / "data")
    a = tiny_data.arrays
    np.save(tmp_path / "data" / "encoded" / "end.npy", a["begin"][a["user"]].astype(a["end"].dtype))
    empty = Prepared(tmp_path / "data")
    argv = arguments(empty, weak, tmp_path / "out", "--publish-anyway")
    argv[argv.index("wdl")] = "bst"
    line = refused(capsys, argv)
    assert "empty" in line and "object_type" in line and "--network wdl" in line
    assert Run(empty, "wdl", load_recipe([weak], "wdl"), 1, tmp_path / "x.pt").empty_histories is None
    for network in ("din", "atrank", "wdl_seq", "bilstm"):
        with pytest.raises(RecipeError, match="all those of the .* training impressions are empty"):
            Run(empty, network, Recipe(), 1, tmp_path / "x.pt")
    run = Run(tiny_data, "bst", Recipe(history={"length": 5}), 1, tmp_path / "x.pt")
    rows = tiny_data.of_split("train")
    assert run.empty_histories == pytest.approx((a["end"][rows] == a["begin"][tiny_data.user[rows]]).mean())


def test_one_history_among_many_empty_ones_is_found(tiny_data: Prepared, tmp_path: Path) -> None:
    rows, a = tiny_data.of_split("train"), tiny_data.arrays
    network = Run(tiny_data, "bst", Recipe(), 1, tmp_path / "x.pt").network
    lonely = copy(tiny_data)
    end = a["begin"][a["user"]].copy()
    some = next(row for row in rows[7:].tolist() if a["end"][row] > end[row])
    end[some] = a["end"][some]
    lonely.arrays = a | {"end": end}
    share = empty_share(lonely, rows, network)
    assert share is not None and 0.99 < share < 1


def test_where_test_is_empty_validation_judges_and_golden_requests_are_its(
    tiny_data: Prepared, weak: Path, tmp_path: Path
) -> None:
    untested = copy(tiny_data)
    split = np.array(tiny_data.arrays["split"])
    split[tiny_data.of_split("test")] = 0
    untested.arrays = tiny_data.arrays | {"split": split}
    run = Run(untested, "wdl", load_recipe([weak], "wdl"), 1, tmp_path / "x.pt")
    run.fit()
    outcome = publish(run, tmp_path, gate=True, boosting=False)
    assert outcome.exam.split == "validation" and outcome.figures["rows"] == len(tiny_data.of_split("validation"))
    assert not outcome.published and len(Bundle.open(outcome.bundle).golden()) > 2


def test_ctrl_c_keeps_what_is_learnt_and_names_the_line_that_goes_on(
    tiny_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text(WEAK.replace("evaluations = 2", "evaluations = 0") + "epochs = 10\ncheckpoint_s = 0.0\n")
    argv = arguments(tiny_data, recipe, tmp_path / "out", "--publish-anyway")
    checkpoint = tmp_path / "out" / "wdl_simulated" / ".training-1.pt"
    with started("-m", "model.train", *argv) as training:
        wait_until(lambda: checkpoint.exists() or training.process.poll() is not None, training)
        training.process.send_signal(signal.SIGINT)
        assert training.ended() == 130, training
        said = str(training)
    assert "Traceback" not in said and "train: interrupted" in said
    command = shlex.split(next(line for line in said.splitlines() if "interrupted" in line).partition("go on: ")[2])
    assert command == ["python", "-m", "model.train", *argv, "--resume"]
    assert train.main(command[3:]) == 0
    assert "resumed" in capsys.readouterr().out and not checkpoint.exists()


def test_an_interrupted_run_goes_on_to_the_same_bits(tiny_data: Prepared, tmp_path: Path) -> None:
    recipe = Recipe({"mlp": [8]}, Training(optimiser="adam", batch_size=512, epochs=2, evaluations=1, fresh_tables=10))

    class Interrupted(Run):
        def step(self, rows: Any, negative: Any = None) -> torch.Tensor:
            if (self.progress["epoch"], self.progress["batch"]) == (1, 2):
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(rows, negative)

    one = Interrupted(tiny_data, "wdl", recipe, 1, tmp_path / "x.pt")
    with pytest.raises(KeyboardInterrupt), stopped_by_ctrl_c(one):
        one.fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole = Run(tiny_data, "wdl", recipe, 1, tmp_path / "y.pt")
    whole.fit()
    again = Run(tiny_data, "wdl", recipe, 1, tmp_path / "x.pt")
    assert again.resume() and again.progress["batch"] > 1
    again.fit()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_a_recipe_has_a_name_or_a_path_and_an_unknown_one_says_which_there_are(
    tiny_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = choose("bst", tiny_data, "paper")
    assert paper.recipe.training == Training() and paper.recipe_from == ["model/recipes/paper.toml"]
    assert paper.recipe.network == {"mlp": [1024, 512, 256]} and choose("bpr", tiny_data, "paper").recipe.network == {}
    assert choose("bpr", tiny_data, "kuairand").recipe_from == [f"model/recipes/{n}kuairand.toml" for n in ("", "bpr_")]
    assert choose("bst", tiny_data, str(RECIPES / "paper.toml")) == choose("bst", tiny_data, RECIPES / "paper.toml")
    (tmp_path / "bom.toml").write_text("[training]\nepochs = 3\n", "utf-8-sig")  # as Windows' editors write it
    assert choose("bst", tiny_data, tmp_path / "bom.toml").recipe.training.epochs == 3
    for unknown in ("papers", "demo_features", str(tmp_path)):
        with pytest.raises(RecipeError, match=r"--recipe .*: .* allowed: a TOML file, or one of amazon, .*paper"):
            choose("bst", tiny_data, unknown)
    assert "paper" in recipe_names()


def test_without_a_recipe_what_suits_the_log_is_chosen_and_says_why(tiny_data: Prepared) -> None:
    nowhere = copy(tiny_data)
    nowhere.meta = tiny_data.meta | {"dataset": "parquet"}
    choice = choose("bst", nowhere)
    assert choice.recipe_from == SUITED and choice.reasons and len(list(choice.lines())) == 1 + len(choice.reasons)
    assert choose("bst", tiny_data).recipe_from == ["model/recipes/simulated.toml", "model/recipes/bst_simulated.toml"]


def test_a_warm_start_goes_by_the_recipe_of_its_bundle(
    story: Story, tiny_data: Prepared, weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(Path(story.lines[2]["bundle"]))
    choice = choose("wdl", tiny_data, None, bundle)
    assert choice.recipe_from == WARM and choice.recipe.training == load_recipe([weak], "wdl").training
    Run(tiny_data, "wdl", choice.recipe, 1, tmp_path / "x.pt", warm=bundle)
    argv = arguments(tiny_data, weak, tmp_path / "out", "--warm", str(bundle.folder))
    argv[argv.index("wdl")] = "bst"
    assert "is of the network wdl, --network says bst" in refused(capsys, argv)


def test_pruning_spares_what_it_is_told_and_whatever_is_no_version(tmp_path: Path) -> None:
    for name in ("20260101T000000-a", "20260102T000000-b", "20260103T000000-c", ".bundle-7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "current").symlink_to("20260101T000000-a")
    assert prune(tmp_path, 1, "20260101T000000-a", None) == ["20260102T000000-b"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "20260101T000000-a", "20260103T000000-c", ".bundle-7", "notes", "current",
    }  # fmt: skip
