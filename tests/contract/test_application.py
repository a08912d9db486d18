"""The layers around the routes: ours, and of the framework only the one that answers errors."""

from pathlib import Path

from starlette.applications import Starlette

from service.app import create_app
from service.settings import Settings


def layers(app: Starlette) -> list[str]:
    names, layer = [], app.build_middleware_stack()
    while hasattr(layer, "app"):
        names.append(type(layer).__name__)
        layer = layer.app
    return names[:-1]  # the router's own is a method


def test_a_request_passes_no_layer_that_nothing_here_needs(tmp_path: Path) -> None:
    assert layers(create_app(Settings(), tmp_path)) == ["Observed", "Methods", "Compressed", "ExceptionMiddleware"]


def test_where_nothing_is_compressed_there_is_no_layer_for_it(tmp_path: Path) -> None:
    app = create_app(Settings(compress_from_bytes=0), tmp_path)
    assert layers(app) == ["Observed", "Methods", "ExceptionMiddleware"]
