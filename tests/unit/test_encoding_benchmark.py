"""The encoding benchmark: its tables are made once, its command says what it is relied on to say."""

import json
from pathlib import Path

import pytest

from loadtest import encoding
from model.features.ids import keys


def test_the_quick_run_ends_in_the_line_that_scripts_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encoding.main(["--quick", "--cache", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"encode_ms_500_1m", "encode_ms_500_10m", "ratio_10m_over_1m"} <= set(figures)
    assert {"encode_ms_neither", "more_ms_matches", "more_ms_statistics", "more_ms_both"} <= set(figures)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [str(encoding.QUICK.few), str(encoding.QUICK.many)]
    )


def test_its_items_are_known_by_either_type_of_id(tmp_path: Path) -> None:
    folder = encoding.tables(tmp_path, 500)
    made = (folder / "item_id.npy").stat().st_mtime_ns
    assert (encoding.tables(tmp_path, 500) / "item_id.npy").stat().st_mtime_ns == made
    texts = [f"i{n}" for n in range(500)]
    for kind in encoding.KINDS:
        side = encoding.Side(folder, 500, kind)
        ids = side.ids(texts)
        encoded = side.encoder.encode("u1", {}, [], ids, encoding.NOW, side.catalog)
        assert keys(ids, kind).tolist() == keys(texts, "str").tolist()
        assert encoded.unknown_items == 0 and encoded.inputs["item"][0, :, 0].tolist() == list(range(2, 502))
