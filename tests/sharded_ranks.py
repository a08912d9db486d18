"""What test_sharded.py runs under torchrun: every network, its tables in parts, trained to the end.

torchrun --nproc-per-node 2 -m tests.sharded_ranks DATA OUT
"""

import sys
import threading
from pathlib import Path

import torch
from torch import nn

from model import networks
from model.graph.write import draw_graph
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training
from model.training.sharded.run import ShardedRun

LEAST_ROWS = 8
ROWS, WIDTH, PIECES = 1 << 20, 64, 16
TABLE_BYTES = 4 * ROWS * WIDTH


def recipe(network: str) -> Recipe:
    """Without dropout, which ranks draw otherwise; the last batch has fewer rows; tables start anew on the way."""
    chosen = {"mlp": [16], "mlp_dropout": 0.0, "dropout": 0.0}
    how = Training(
        batch_size=700, epochs=2, evaluations=1, decay=0.5, fresh_tables=100, l2=0.01 if network == "bpr" else 0.0
    )
    return Recipe({name: value for name, value in chosen.items() if name in networks.options(network)}, how)


def main(data: Path, out: Path) -> None:
    for network in networks.names():
        run = ShardedRun(Prepared(data), network, recipe(network), 1, out / f".{network}.parts", least_rows=LEAST_ROWS)
        run.fit()
        if run.world.rank == 0:
            torch.save(
                {"network": run.network.state_dict(), "tables": list(run.exchange.tables)}, out / f"{network}.pt"
            )
        print(network, run.world.rank, run.exchange.bytes_sent / run.exchange.steps, flush=True)
    run.world.close()


def export(out: Path) -> None:
    """Prints by how many bytes the process' own memory (what is not mapped from files) grew at most."""
    file = out / "table"
    with file.open("wb") as written:
        for _ in range(PIECES):
            written.write(torch.rand(ROWS // PIECES, WIDTH).numpy().tobytes())
    weight = torch.from_file(str(file), shared=True, size=ROWS * WIDTH).view(ROWS, WIDTH)
    graph = Graph(weight).eval()
    example = {"item": torch.ones(2, 3, 1, dtype=torch.long)}
    draw_graph(Graph(torch.rand(10, WIDTH)).eval(), example, out / "small.onnx", "score")  # the exporter's own memory
    before, peak, ended = own_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        draw_graph(graph, example, out / "model.onnx", "score")
    finally:
        ended.set()
        watcher.join()
    print(max(0, peak[0] - before))


class Graph(nn.Module):
    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.table = nn.Embedding(*weight.shape, padding_idx=0, sparse=True, _weight=weight)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.table(batch["item"][..., 0]).sum(-1)


def own_bytes() -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]))
    else:
        main(*map(Path, sys.argv[1:]))
