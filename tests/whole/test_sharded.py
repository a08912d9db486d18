"""Tables in parts: the model of whole tables, checkpoints for any number of ranks, bundles, and ends of one line.

They need TorchRec: `make sharded` installs it and runs them.
"""

import json
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from loadtest.ranks import SIDES
from model import networks, train
from model.prepared.loader import Prepared
from model.training.run import Run
from tests import sharded_ranks
from tests.processes import ROOT, Running, finished, started, wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("torchrec") is None, reason="no TorchRec here: make sharded installs and runs it"),
]

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, *arguments: object) -> list[object]:
    return ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m", *arguments]


@pytest.fixture(scope="module")
def of_two_ranks(tiny_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network's weights, trained by two ranks."""
    out = tmp_path_factory.mktemp("ranks")
    done = finished(*torchrun(2, "tests.sharded_ranks", tiny_data.folder, out), **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("network", networks.names())
def test_tables_in_parts_train_the_model_of_whole_tables(
    network: str, of_two_ranks: Path, tiny_data: Prepared, tmp_path: Path
) -> None:
    run = Run(tiny_data, network, sharded_ranks.recipe(network), 1, tmp_path / "whole.pt", device="cpu")
    began = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run.fit()
    of_ranks = torch.load(of_two_ranks / f"{network}.pt", weights_only=True)
    whole = run.network.state_dict()
    assert of_ranks["tables"]
    for name in of_ranks["tables"]:
        assert not torch.equal(began[f"{name}.weight"], whole[f"{name}.weight"]), name
    assert list(of_ranks["network"]) == list(whole)
    for name, tensor in whole.items():
        torch.testing.assert_close(of_ranks["network"][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


RECIPE = (
    "[network]\nmlp = [16]\ndropout = 0.0\n"
    "[training]\nbatch_size = 512\nepochs = 4\nevaluations = 1\ncheckpoint_s = 0.0\n"
)


@pytest.fixture
def arguments(tiny_data: Prepared, tmp_path: Path) -> list[object]:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    given = ["--data", tiny_data.folder, "--network", "bst", "--recipe", recipe, "--device", "cpu", "--publish-anyway"]
    return [*given, "--out", tmp_path / "parts", "--shard-tables", sharded_ranks.LEAST_ROWS]


def killed(ranks: int, arguments: list[object], checkpoint: Path) -> str:
    """What all ranks say where the last of them is killed once a checkpoint has been written."""
    before = checkpoint.stat().st_ino if checkpoint.exists() else None
    command = torchrun(ranks, "model.train", *arguments)
    with started(*command, environment=os.environ | ONE_THREAD) as running:
        wait_until(lambda: checkpoint.exists() and checkpoint.stat().st_ino != before, running)
        os.kill(rank_of(running, ranks - 1), signal.SIGKILL)
        assert running.ended() == 1
    return running.output


def rank_of(running: Running, rank: int) -> int:
    """The process that torchrun started as this rank."""
    mark = f"RANK={rank}".encode()
    return next(
        pid for pid in running.children.pids() if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    )


def test_what_two_ranks_began_four_go_on_with_and_one_ends(arguments: list[object], tmp_path: Path) -> None:
    """As one process trains it that was never killed; each time the rest of the ranks end with one line."""
    checkpoint = tmp_path / "parts" / "bst_simulated" / ".training-1.parts"
    for ranks, more in ((2, []), (4, ["--resume"])):
        said = killed(ranks, [*arguments, *more], checkpoint)
        lines = [line for line in said.replace("\r", "\n").splitlines() if "train: rank" in line]
        assert len(lines) == ranks - 1, said
        assert all("another rank has ended" in one and "with --resume goes on" in one for one in lines), lines
    done = finished(*torchrun(1, "model.train", *arguments, "--resume"), **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed" in done.stdout
    assert "bytes a step of ids" in done.stdout
    assert not checkpoint.exists()
    whole = arguments[: arguments.index("--out")]
    assert train.main([*map(str, whole), "--out", str(tmp_path / "whole")]) == 0
    parts, one = (
        torch.load(tmp_path / name / "bst_simulated" / "current" / "weights.pt", weights_only=True)
        for name in ("parts", "whole")
    )
    assert list(parts) == list(one)
    for name, tensor in one.items():
        torch.testing.assert_close(parts[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def test_a_cut_file_of_a_rank_is_told_by_its_name(arguments: list[object], tmp_path: Path) -> None:
    checkpoint = tmp_path / "parts" / "bst_simulated" / ".training-1.parts"
    killed(2, arguments, checkpoint)
    cut = checkpoint / "__1_0.distcp"
    os.truncate(cut, 100)
    done = finished(*torchrun(2, "model.train", *arguments, "--resume"), **ONE_THREAD)
    assert done.returncode == 1
    assert f"train: {cut} has 100 bytes and had" in done.stderr
    assert "rank0]: Traceback" not in done.stderr


def test_parts_that_cannot_be_written_end_all_ranks_with_one_line(arguments: list[object], tmp_path: Path) -> None:
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); "
    limited += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = finished("-c", limited, *torchrun(2, "model.train", *arguments), **ONE_THREAD)
    checkpoint = tmp_path / "parts" / "bst_simulated" / ".training-1.parts"
    assert done.returncode == 1 and not checkpoint.exists()
    assert f"train: {checkpoint} cannot be written: [Errno 27] File too large; there is none yet" in done.stderr
    assert "rank0]: Traceback" not in done.stderr


def test_where_one_rank_cannot_write_the_rest_all_end_and_the_checkpoint_before_goes_on(
    arguments: list[object], tmp_path: Path
) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        "import sys, torch; save, saved = torch.save, []\n"
        "def once(what, file, *more):\n"
        "    if not str(file).endswith('whole.pt'): return save(what, file, *more)\n"
        "    if saved: raise RuntimeError('failed writing file data/0')\n"
        "    saved.append(save(what, file, *more))\n"
        f"torch.save = once; sys.argv = ['train', *{list(map(str, arguments))!r}]\n"
        "from model import train; sys.exit(train.main())\n"
    )
    path = os.pathsep.join([str(ROOT), *sys.path[1:]])
    done = finished(*torchrun(2, "x")[:-2], script, PYTHONPATH=path, **ONE_THREAD)
    checkpoint = tmp_path / "parts" / "bst_simulated" / ".training-1.parts"
    assert done.returncode == 1
    assert f"{checkpoint} cannot be written: failed writing file data/0; the one before is whole" in done.stderr
    assert done.stderr.count("train: ") == 2 and "rank0]: Traceback" not in done.stderr, "a line of each rank"
    assert finished(*torchrun(2, "model.train", *arguments, "--resume"), **ONE_THREAD).returncode == 0


def test_ranks_that_disagree_on_the_recipe_end_with_one_line(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").unlink()
    other = (
        "import os, pathlib, sys; rank = os.environ['RANK']\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / f'recipe{{rank}}.toml'\n"
        f"path.write_text({RECIPE!r}.replace('512', '512' if rank == '0' else '256'))\n"
        f"sys.argv = ['train', *{list(map(str, arguments))!r}]; sys.argv[sys.argv.index('--recipe') + 1] = str(path)\n"
        "from model import train; sys.exit(train.main())\n"
    )
    script = tmp_path / "disagreeing.py"
    script.write_text(other)
    command = torchrun(2, "x")[:-2]
    done = finished(*command, script, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path[1:]]), **ONE_THREAD)
    assert done.returncode == 1
    assert "train: ranks disagree on [training] batch_size: rank 0 has 512, rank 1 256" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimiser = 'adam'", "optimiser 'adam' with --shard-tables, allowed: 'adagrad'"),
        ("table_deviation = 0.5", "table_deviation 0.5 with --shard-tables, allowed: 0"),
        ("average = 0.5", "average 0.5 with --shard-tables, allowed: 0"),
        ("batch_l2 = 0.5", "batch_l2 0.5 with --shard-tables, allowed: 0"),
        ("l2 = 0.5", "l2 0.5 with --shard-tables, allowed: 0"),
    ],
)
def test_a_recipe_that_tables_in_parts_cannot_follow_is_refused(
    line: str, said: str, arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(f"{RECIPE}{line}\n")
    assert train.main(list(map(str, arguments))) == 1
    assert said in capsys.readouterr().err


def test_a_table_that_is_mapped_from_a_file_is_exported_without_being_held(tmp_path: Path) -> None:
    """256 MiB of table; what the process itself holds meanwhile grows by less than half of it."""
    done = finished("-W", "ignore", "-m", "tests.sharded_ranks", "export", tmp_path, **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    grown = int(done.stdout.split()[-1])
    assert grown < sharded_ranks.TABLE_BYTES / 2
    assert (tmp_path / "model.onnx.data").stat().st_size >= sharded_ranks.TABLE_BYTES


def test_the_benchmark_of_processes_says_what_a_second_one_gains(tmp_path: Path) -> None:
    done = finished("-m", "loadtest.ranks", "--quick", "--cache", tmp_path, **ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures["step_ms"]) == set(SIDES) and min(figures["step_ms"].values()) > 0
    assert {"gain_two_processes", "gain_two_processes_in_parts", "parts_over_whole"} <= set(figures)
