"""Quantiles over several instances, as deploy/prometheus/rules.yml records them, beside those of all their requests."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.counts import Metrics
from service.telemetry.families import QUANTILES, ROUTES
from service.telemetry.folder import prepare_folder

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
OFF, UP_TO_S = 0.05, 0.16  # up to 160 ms buckets are fine
RECORDED = re.findall(r"record: (job_route:ranker_request_duration_seconds:p(\d+)_rate5m)", RULES.read_text())


def buckets(times_s: npt.NDArray[np.float64]) -> dict[str, int]:
    """What one instance shows after these requests, by bound."""
    with prepare_folder(1) as folder:
        metrics = Metrics(folder, ROUTES, ())
        for seconds in times_s:
            metrics.observe("/rank", "ok", {}, float(seconds))
        shown = metrics.render()[0].decode()
        metrics.close()
    (family,) = [one for one in text_string_to_metric_families(shown) if one.name == "ranker_request_duration_seconds"]
    rows = [one for one in family.samples if one.name.endswith("_bucket") and one.labels["route"] == "/rank"]
    return {one.labels["le"]: int(one.value) for one in rows if one.labels["outcome"] == "ok"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed")
def test_recorded_quantiles_are_those_of_all_requests_together_whatever_each_instance_had(tmp_path: Path) -> None:
    """A fast instance with many requests, a slow one with few: no mean of theirs would do."""
    chance = np.random.default_rng(1)
    instances = {
        "fast": chance.lognormal(np.log(0.004), 0.4, 20_000),
        "slow": chance.lognormal(np.log(0.04), 0.3, 2_000),
    }
    together = np.concatenate([*instances.values()])
    assert [f"{share}"[2:].ljust(2, "0") for share in QUANTILES] == [share for _, share in RECORDED]

    checks = []
    for (record, _), share in zip(RECORDED, QUANTILES, strict=True):
        exact = float(np.quantile(together, share))
        assert exact < UP_TO_S
        near = {"labels": '{job="ranker", route="/rank"}', "value": 1}
        checks.append(
            {"expr": f"abs({record} / {exact} - 1) < bool {OFF}", "eval_time": "10m", "exp_samples": [near]},
        )
    mean_of_p99s = np.mean([np.quantile(times_s, 0.99) for times_s in instances.values()])
    assert abs(mean_of_p99s / np.quantile(together, 0.99) - 1) > 3 * OFF, "the test could not tell"

    labels = 'job="ranker", route="/rank", outcome="ok", model="bst", version="1", variant=""'
    series = [
        {
            "series": f'ranker_request_duration_seconds_bucket{{instance="{name}", le="{bound}", {labels}}}',
            "values": f"0+{number}x20",
        }
        for name, times_s in instances.items()
        for bound, number in buckets(times_s).items()
    ]
    case = {"interval": "1m", "input_series": series, "promql_expr_test": checks}
    file = tmp_path / "quantiles_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
