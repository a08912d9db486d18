"""The Prometheus operator's rules, from deploy/prometheus/rules.yml: `make docs` writes them, a test compares.

python -m tests.kubernetes.rules > deploy/kubernetes/overlays/production/rules.yaml
"""

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
WRITTEN = DEPLOY / "kubernetes" / "overlays" / "production" / "rules.yaml"

HEAD = "# Written by `make docs` from deploy/prometheus/rules.yml, where the reasons stand: change that file.\n"


def page() -> str:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule["expr"] = str(rule["expr"])  # a number is none that the operator takes, unless it is whole
    told = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ranker", "labels": {"app.kubernetes.io/part-of": "bst-ranker"}},
        "spec": {"groups": groups},
    }
    return HEAD + yaml.dump(told, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, as people write them; no anchors for what is the same twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)

if __name__ == "__main__":
    print(page(), end="")
