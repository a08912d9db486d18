"""Nothing phones home: commands run in a box that sees each name looked up, each way out and each file written."""

import sys
import textwrap
from pathlib import Path

import pytest

from tests.box import Seen, boxed, refusal

needs_a_box = pytest.mark.skipif(refusal() is not None, reason=str(refusal()))

# The commands start what they start by themselves and wait for it by what it prints.
SERVICE = """
    import json, shutil, signal, subprocess, sys, time, urllib.request
    from pathlib import Path
    from service.settings import DEMO_BUNDLE

    shutil.copytree(DEMO_BUNDLE, "bundle")
    Path("items.jsonl").write_text('{"item_id": "new one", "category_id": "c1"}')
    budget = ("[tiny]", "rate = 20", "duration_s = 1", "candidates = 5", "errors = 0", "smoke = true")
    budget += ("p50_ms = 9e3", "p99_ms = 9e3")
    Path("budgets.toml").write_text("\\n".join(budget))
    signal.alarm(120)  # a hang ends here, with what was said so far

    def run(*command):
        subprocess.run([sys.executable, "-m", *command], check=True)

    def get(path):
        with urllib.request.urlopen(base + path, timeout=20) as answer:
            return answer.read()

    service = subprocess.Popen([sys.executable, "-m", "service"], stdout=subprocess.PIPE, text=True)
    for line in service.stdout:
        if line.startswith("ready on "):
            base = line.split()[2]
        if line.startswith("curl "):
            break
    users = [json.loads(line)["user_id"] for line in Path(str(DEMO_BUNDLE.parent / "users.jsonl")).open()]
    before = json.loads(get("/model"))["catalog"]
    run("model.catalog", "--bundle", "bundle", "--items", "items.jsonl", "--merge")
    while json.loads(get("/model"))["catalog"] == before:
        time.sleep(0.1)
    body = json.dumps({"user_id": users[0], "candidates": ["new one", "i2"]}).encode()
    asked = urllib.request.Request(base + "/rank", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        ranked = json.loads(answer.read())
    assert len(ranked["items"]) == 2 and not ranked["degraded"], ranked
    assert b"swagger" in get("/docs") and get("/metrics")
    run("loadtest", "--url", base, "--budgets", "budgets.toml", "--out", "report")
    service.send_signal(signal.SIGTERM)
    service.stdout.read()
    assert service.wait() == 0
    print("all done")
"""
TRAINING = """
    import subprocess, sys
    from pathlib import Path

    recipe = ("[training]", 'optimiser = "adam"', "batch_size = 512", "epochs = 1", "evaluations = 1")
    Path("short.toml").write_text("\\n".join(recipe))

    def run(*command):
        subprocess.run([sys.executable, "-m", *command], check=True)

    run("model.prepare", "--dataset", "simulated", "--impressions", "1500", "--seed", "1", "--out", "data")
    trained = ("--recipe", "short.toml", "--out", "bundles", "--publish-anyway", "--tensorboard", "board")
    run("model.train", "--data", "data", "--network", "wdl", *trained)
    done = subprocess.run(
        [sys.executable, "-m", "model.export", "--bundle", "bundles/wdl_simulated", "--quantize", "--data", "data"]
    )
    assert done.returncode in (0, 1)  # 1: the gate refused so small a model's graph
    print("all done")
"""


def python(code: str, **environment: str) -> Seen:
    return boxed([sys.executable, "-c", textwrap.dedent(code)], **environment)


def quiet(seen: Seen) -> bool:
    return (seen.questions, seen.no_route, seen.files) == ((), 0, ())


@needs_a_box
def test_the_service_the_load_test_and_a_swap_of_the_catalogue_look_nothing_up_and_write_nothing_elsewhere() -> None:
    seen = python(SERVICE, RANKER_BUNDLE="bundle", RANKER_PORT="0", RANKER_DRAIN_S="0", RANKER_CATALOG_POLL_S="0.1")
    assert seen.code == 0 and seen.output.endswith("all done\n"), seen.output
    assert quiet(seen), seen


@pytest.mark.long
@needs_a_box
def test_neither_do_preparing_training_and_export() -> None:
    seen = python(TRAINING)
    assert seen.code == 0 and seen.output.endswith("all done\n"), seen.output
    assert quiet(seen), seen


@needs_a_box
def test_a_plot_leaves_no_list_of_fonts() -> None:
    seen = python("""
        import model.reproduction.plots
        from matplotlib.figure import Figure
        Figure().savefig("plot.png")
    """)
    assert seen.code == 0 and quiet(seen), seen


@needs_a_box
def test_the_one_name_that_is_looked_up_is_that_of_the_setting() -> None:
    """So the box does see what a service asks for."""
    code = """
        import subprocess, sys
        service = subprocess.Popen([sys.executable, "-m", "service"], stdout=subprocess.PIPE, text=True)
        for line in service.stdout:
            if line.startswith("ready on "):
                break
        service.terminate()
        service.stdout.read()
        sys.exit(service.wait())
    """
    seen = python(code, RANKER_PORT="0", RANKER_DRAIN_S="0", RANKER_REDIS_URL="redis://store.example:6379/0")
    assert seen.code == 0 and set(seen.questions) == {"store.example"}, seen
    assert (seen.no_route, seen.files) == (0, ())


@needs_a_box
def test_the_box_sees_a_look_up_a_way_out_and_a_file() -> None:
    seen = python("""
        import socket
        from contextlib import suppress
        with suppress(OSError):
            socket.getaddrinfo("telemetry.example", 443)
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect(("192.0.2.1", 443))
        for name in ("/tmp/a", "/dev/shm/b", "/etc/hostname", "in the folder named"):
            open(name, "w").close()
    """)
    assert set(seen.questions) == {"telemetry.example"} and seen.no_route == 1, seen
    assert seen.files == ("/dev/shm/b", "/etc/hostname", "/tmp/a")
    assert not Path("/tmp/a").exists() and not Path("/dev/shm/b").exists()


@needs_a_box
@pytest.mark.parametrize("package", ["onnxruntime"])
def test_a_package_that_is_not_told_to_be_quiet_is_seen(package: str) -> None:
    """Should this fail one day, the package has become quiet by itself, and its line in model/quiet.py may go."""
    assert not quiet(python(f"import {package}"))
