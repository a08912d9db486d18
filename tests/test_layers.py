"""Imports point one way; the arrows of the design as a table, and a parser that holds the code to it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings

ROOT = Path(__file__).parent.parent
# module (the longest prefix counts) -> what it may import of the project; a package's own modules beside each other
# are listed too
ARROWS = {
    "model": set(),  # its __init__, and whatever has no arrow yet
    "model.features": {"model.features"},
    "model.bundle": {"model.features"},
    "model.networks": {"model.features", "model.networks"},
    "model.loader": {"model.features"},
    "model.datasets": {"model.features", "model.datasets"},
    "model.entities": {"model.features"},
    "model.prepare": {"model.features", "model.datasets", "model.entities", "model.loader"},
    "model.catalog": {"model.bundle", "model.entities", "model.features"},  # no torch: it runs where items change
    "model.evaluate": {"model.features", "model.bundle", "model.loader"},
    "model.export": {"model.features", "model.bundle", "model.loader", "model.objective", "model.served"}
    | {"model.evaluate", "model.quantize"},
    "model.quantize": {"model.features", "model.bundle", "model.loader", "model.evaluate", "model.golden"}
    | {"model.export", "model.networks", "model.served"},
    "model.served": {"model.features", "model.networks"},
    "model.golden": {"model.features", "model.bundle", "model.loader"},
    "model.recipe": {"model.features", "model.networks"},
    "model.objective": set(),
    "model.ftrl": set(),
    "model.parallel": set(),
    "model.lazy": set(),
    "model.memory": set(),
    "model.optimiser": {"model.ftrl", "model.lazy", "model.recipe"},
    "model.pairs": {"model.loader"},
    "model.warm": {"model.bundle", "model.features", "model.loader", "model.recipe"},
    "model.trainer": {"model"},
    "model.publish": {"model"},
    "model.train": {"model"},
    "model.demo": {"model"},
    "model.daily": {"model"},
    "model.search": {"model"},
    "model.bootstrap": set(),
    "model.variants": {"model.networks", "model.recipe"},
    "model.report": {"model.report", "model.features", "model.bundle", "model.loader", "model.evaluate"}
    | {"model.bootstrap", "model.variants"},
    "model.runs": {"model"},
    "model.reproduce": {"model"},
    "service.history": {"model.features"},
    "service.settings": set(),
    "service.errors": set(),
    "service.embedded": set(),
    "service.window": set(),
    "service.exposition": set(),
    "service.pulse": set(),
    "service.logs": set(),
    "service.tracing": set(),
    "service.metrics": {"service.exposition", "service.pulse", "service.window"},
    "service.middleware": {"service.errors", "service.logs", "service.metrics", "service.tracing"},
    "service.wire": {"model.features", "service.errors"},
    "service.catalog": {"model.bundle", "model.features"},
    "service.scorer": {"model.bundle", "model.features"},
    "service.rank": {"model.features", "service.errors", "service.history", "service.scorer", "service.wire"},
    "service.backfill": {"model.features", "service.history", "service.settings"},
    "service": {"service", "model.features", "model.bundle"},  # app and __main__
    "loadtest": {"loadtest"},
    "loadtest.training": {"loadtest", "model"},
    "loadtest.accuracy": {"loadtest", "model"},
    "loadtest.usual": {"model.networks"},
    "loadtest.bundles": {"loadtest", "model"},
    "loadtest.serving": {"loadtest", "service"},
    "loadtest.overhead": {"loadtest", "model", "service"},
    "loadtest.networks": {"loadtest", "model"},
    "loadtest.ruler": {"loadtest"},
    "loadtest.scale": {"loadtest"},
    "loadtest.scoring": {"loadtest", "model"},
    "loadtest.trained": {"loadtest", "model"},
    "loadtest.encoding": {"model.features"},
    "loadtest.peers": {"loadtest.errors", "model.features", "model.loader"},
}
FILES = sorted(path for room in ("service", "model", "loadtest") for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("service", "model", "loadtest", "tests")}


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_arrow_allows(path: Path) -> None:
    module = module_of(path)
    if path.read_text().strip() == "":
        return
    owner = max((prefix for prefix in ARROWS if within(module, prefix)), key=len, default=None)
    assert owner is not None, f"{module} has no arrow: add it to ARROWS and to the design"
    wrong = [name for name in imports_of(path) if not any(within(name, allowed) for allowed in ARROWS[owner])]
    assert not wrong, f"{module} must not import {wrong}"


def test_the_parser_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from model import train\n    import service.app\n")
    assert imports_of(wrong) == {"model.train", "service.app"}


def test_the_service_starts_where_neither_torch_nor_a_table_reader_can_be_imported() -> None:
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "polars", "onnx", "onnxscript", "sklearn", "tomli_w"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import service.app, service.__main__
assert not {"torch", "polars", "onnx"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_explains_every_setting_in_the_settings_own_words() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `RANKER_{name.upper()}` |" in readme and str(field.description) in readme, name
