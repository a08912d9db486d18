"""The training benchmark: its made-up data set is a prepared one, its command says what it is relied on to say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loadtest import accuracy, peers, training
from loadtest.bench.prepared import CLICKS, data_set
from loadtest.errors import NoRun
from loadtest.peers.rows import encoded
from model.features.ids import FIRST, PAD
from model.features.timeposition import time_positions
from model.prepared.loader import Prepared
from tests.processes import finished
from tests.verbs import refusal

ROOT = Path(__file__).parents[2]
KEYS = {
    "ratio_100k", "ratio_1m", "ratio_100k_ffn_4d", "ratio_1m_ffn_4d", "rows_per_s", "step_growth_100k_to_10m",
    "peak_gib", "threads", "machine",
}  # fmt: skip


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return data_set(tmp_path_factory.mktemp("cache"), 300, 4_900)


def test_the_made_up_data_set_has_the_sizes_asked_for(made_up: Prepared) -> None:
    assert made_up.rows["item_id"] == FIRST + 300
    assert [len(made_up.of_split(split)) for split in ("train", "validation", "test")] == [4_900, 50, 50]
    assert len(made_up.catalog) == 300
    assert (np.diff(made_up.time) >= 0).all()


def test_its_histories_hold_what_the_user_did_strictly_before_the_impression(made_up: Prepared) -> None:
    a, rows = made_up.arrays, np.array([0, 1234, 4_999])
    batch = made_up.batch(rows)
    for number, row in enumerate(rows):
        begin = a["begin"][a["user"][row]]
        mine = slice(begin, begin + CLICKS)
        before = np.flatnonzero(a["clicked_at"][mine] < a["time"][row])[-20:]
        rows_of_items = a["items"][a["clicked"][mine][before]]
        gaps = time_positions(a["clicked_at"][mine][before][None], a["time"][row : row + 1])[0]
        assert len(before) == 20 or (batch["gap"][number, len(before) :] == PAD).all()
        np.testing.assert_array_equal(batch["history"][number, : len(before)], rows_of_items)
        np.testing.assert_array_equal(batch["gap"][number, : len(before)], gaps)


def test_its_encoded_items_are_what_its_encoder_makes_of_its_catalogue(made_up: Prepared) -> None:
    keys = np.arange(300, dtype=np.uint64)
    columns, known = made_up.catalog.columns(keys)
    rows = made_up.encoder.rows(made_up.schema.side("item"), {**columns, "item_id": keys}, 300)
    assert known.all()
    np.testing.assert_array_equal(made_up.arrays["items"], rows)


def test_a_data_set_is_made_once_and_one_that_a_kill_left_half_made_again(tmp_path: Path) -> None:
    made = data_set(tmp_path, 50, 980)
    written = (made.folder / "meta.json").stat().st_mtime_ns
    assert (data_set(tmp_path, 50, 980).folder / "meta.json").stat().st_mtime_ns == written
    made.folder.rename(made.folder.with_name(f".{made.folder.name}-99999999"))
    again = data_set(tmp_path, 50, 980)
    assert (again.folder / "meta.json").stat().st_mtime_ns != written
    assert len(again.of_split("train")) == 980


def test_a_round_trains_the_steps_asked_for_on_new_rows(made_up: Prepared) -> None:
    sizes = training.Sizes(round_steps=2, warm=1)
    ours = training.Ours(made_up, sizes)
    weight = ours.run.network.embed.sequence["item_id"].weight.detach().clone()
    assert ours.round() > 0
    assert ours.run.progress["rows"] == 3 * training.BATCH
    assert not weight.equal(ours.run.network.embed.sequence["item_id"].weight)


@pytest.mark.long
def test_the_quick_run_ends_in_the_line_that_scripts_read(tmp_path: Path) -> None:
    done = finished("-m", "loadtest.training", "--quick", "--threads", "1", "--cache", tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) >= KEYS
    assert figures["ratio_100k"] is None and figures["ratio_1m"] is None
    assert 0.1 < figures["peak_gib"] < 4
    assert figures["gathered_rows"] == 10_000  # of the whole log, though 3 batches are trained on
    assert figures["rows_per_s"] > 0 and figures["threads"] == 1


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (training.main, ["--steps", "0"], "integers of at least 1 are allowed"),
        (training.main, ["--cache", str(ROOT / "Makefile")], "Makefile is no folder"),
        (accuracy.main, ["--data", "nowhere", "--out", "x.npz"], "nowhere is no prepared data set"),
        (accuracy.main, ["--data", "nowhere", "--out", "x.csv"], "--out ends in .npz"),
        (accuracy.main, ["--data", "d", "--out", "x.npz", "--networks", "DCNv2"], "torch-rechub are allowed: BST"),
    ],
)
def test_wrong_input_is_one_clear_line(
    main: Callable[[list[str]], int], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, main, arguments)


def test_the_peer_is_given_our_rows_and_its_own_padding(small_data: Prepared) -> None:
    rows = small_data.of_split("test")[:100]
    described, arrays = encoded(small_data, rows)
    inputs = small_data.batch(rows)
    by_name = {one["name"]: one for one in described}
    place = small_data.schema.places("item")["item_id"]
    np.testing.assert_array_equal(arrays["item_id"], inputs["item"][:, 0, place][:, 0])
    np.testing.assert_array_equal(arrays["history_item_id"] == PAD, inputs["gap"] == PAD)
    assert by_name["item_id"]["role"] == "target" and by_name["history_item_id"]["shared_with"] == "item_id"
    assert by_name["age"] == {"name": "age", "role": "other", "kind": "sparse", "rows": small_data.rows["age"]}
    assert set(arrays) == set(by_name)
    known = {name for name, one in by_name.items() if one["role"] != "history"}
    seen = {f.name for f in small_data.schema.embedded if f.width or f.sequence_width or f.is_float}
    assert known == seen and "statistic" in {f.kind for f in small_data.schema.features if f.name in known}


def python_of(library: peers.Library) -> Path:
    python = peers.environment(library, install=False)
    if python is None:
        pytest.skip(f"{library.release} is not there: python -m loadtest.accuracy installs it")
    return python


@pytest.fixture(scope="module")
def peers_python() -> Path:
    return python_of(peers.RECHUB)


def test_the_peer_trains_on_them_as_shipped(made_up: Prepared, peers_python: Path) -> None:
    sizes = training.Sizes(peer_steps=1)
    theirs = training.Theirs(peers_python, made_up, sizes, ffn=256)
    with theirs.process:
        assert theirs.round() > 0


def test_a_peer_that_dies_says_why(tmp_path: Path, peers_python: Path) -> None:
    with (
        peers.Peer(peers_python, ["--rows", str(tmp_path / "none.npz")], 1) as peer,
        pytest.raises(NoRun, match="none"),
    ):
        peer.ask(do="train", rows=[0])


@pytest.mark.parametrize(("library", "network"), [("rechub", "WDL"), ("fuxictr", "DIN")])
def test_the_peers_scores_stand_in_the_order_of_the_test_rows(
    library: str, network: str, made_up: Prepared, tmp_path: Path
) -> None:
    python_of(peers.LIBRARIES[library])
    out, name = tmp_path / "peers.npz", f"{peers.LIBRARIES[library].name} {network}"
    arguments = ["--library", library, "--networks", network, "--data", str(made_up.folder), "--out", str(out)]
    arguments += ["--rates", "0.001", "--epochs", "1", "--threads", "1", "--seeds", "2", "--refit"]
    assert accuracy.main(arguments) == 0
    scores = [np.load(tmp_path / f"peers-{seed}.npz")[name] for seed in (1, 2)]
    assert scores[0].shape == (len(made_up.of_split("test")),)
    assert np.isfinite(scores[0]).all() and not np.array_equal(*scores)
