"""What watches the service: rules that fire when they must, and a dashboard that asks for nothing but what there is."""

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from loadtest.generator import budgets
from loadtest.rolling import balancer
from model import quiet
from service.settings import Settings
from service.telemetry.folder import FOLDER_BYTES_PER_WORKER
from tests.client import get, post, serving
from tests.promql import Query, Selector, read

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
RULE_TEST_FILES = sorted((DEPLOY / "prometheus").glob("rules*_test.yml"))
RULE_TESTS = [case for file in RULE_TEST_FILES for case in yaml.safe_load(file.read_text())["tests"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "bst-ranker.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SCALE = {name: one for name, one in COMPOSE["services"].items() if "scale" in one.get("profiles", ())}
STEADY = next(budget for budget in budgets.load(ROOT / "loadtest" / "budgets.toml") if budget.scenario == "steady")

TARGET_LABELS = {"job", "instance"}  # Prometheus puts them on all that it scrapes
OF_PROMETHEUS = {  # series that it makes by itself
    "up": TARGET_LABELS,
    "ALERTS": {*TARGET_LABELS, "alertname", "alertstate", "severity", "route"},
}

RULE_LIST = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULE_LIST if "alert" in rule]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULE_QUERIES = {rule.get("record") or rule["alert"]: str(rule["expr"]) for rule in RULE_LIST}
PANEL_QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
} | {f"annotation {one['name']}": one["expr"] for one in DASHBOARD["annotations"]["list"]}
QUERIES = {**RULE_QUERIES, **PANEL_QUERIES}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed"
)


def promtool(*arguments: object) -> None:
    ran = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_promtool_accepts_the_scrape_configuration_and_the_rules_that_it_names(tmp_path: Path) -> None:
    """With a key in the place of the one that the containers share, since it looks for that file too."""
    (tmp_path / "key").write_text("a-key-of-the-scraper")
    (tmp_path / "rules.yml").symlink_to(DEPLOY / "prometheus" / "rules.yml")
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert "/etc/prometheus/secrets/key" in config
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus/secrets/key", str(tmp_path / "key")))
    promtool("check", "config", tmp_path / "prometheus.yml")


@needs_promtool
def test_alerts_fire_when_they_must_and_only_then() -> None:
    promtool("test", "rules", *RULE_TEST_FILES)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_seen_to_fire_and_to_keep_quiet_without_traffic_too(alert: str) -> None:
    expected = [
        (bool(check["exp_alerts"]), "without traffic" in case["name"])
        for case in RULE_TESTS
        for check in case.get("alert_rule_test", ())
        if check["alertname"] == alert
    ]
    assert {(True, False), (False, False), (False, True)} <= set(expected)


def test_the_budget_that_is_watched_is_the_one_that_the_load_test_judges_by() -> None:
    assert float(RULE_QUERIES["route:ranker_p99_budget_seconds"]) * 1000 == STEADY.p99_ms
    whole = ("ranker_request_duration_seconds", "ranker_response_time_seconds")  # a stage has no budget
    timed = {
        panel["title"]: [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        for panel in PANELS
        if panel["type"] != "heatmap" and any(name in json.dumps(panel["targets"]) for name in whole)
    }
    assert timed == dict.fromkeys(timed, [None, STEADY.p50_ms / 1000, STEADY.p99_ms / 1000]) and len(timed) >= 4


# --- every query asks for what there is ---


class Exposed:
    """The names that `GET /metrics` shows, each with its labels and their values."""

    def __init__(self, text: str) -> None:
        self.labels: dict[str, set[str]] = {}
        self.values: dict[str, set[str]] = {"job": {"ranker"}}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)
                for label, value in sample.labels.items():
                    self.values.setdefault(label, set()).add(value)


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    """What the demo shows after one ranked request, a refused one, and a drain's pass."""
    journal = tmp_path_factory.mktemp("journal")
    numbers = {"position": 1, "impressions": 10, "clicks": 1, "predicted": 1.5}
    row = {"model": "bst_simulated", "version": "1", "variant": "", **numbers}
    (journal / "lately.json").write_text(json.dumps({"until_s": 1.0, "rows": [row]}))
    with serving(journal=str(journal)) as service:
        post(f"{service.url}/rank", {"user_id": "u1", "candidates": ["i1", "i2"]})
        with pytest.raises(urllib.error.HTTPError, match="422") as refused:
            post(f"{service.url}/rank", {"user_id": "u1"})
        refused.value.close()
        return Exposed(get(f"{service.url}/metrics"))


def kept_by(query: Query) -> set[str]:
    """The labels that a query's `by` leaves; none where it does not aggregate."""
    return {label for group in query.groupings if group.word == "by" for label in group.labels}


def recorded() -> dict[str, set[str]]:
    """The names that the rules record, each with the labels that its expression leaves."""
    labels: dict[str, set[str]] = {}
    for rule in RULE_LIST:
        if "record" in rule:
            query = read(str(rule["expr"]))
            kept = kept_by(query) if query.groupings else {one for s in query.selectors for one in labels[s.name]}
            taken = {"le"} if "histogram_quantile" in str(rule["expr"]) else set()
            labels[rule["record"]] = kept - taken | set(rule.get("labels", {}))
    return labels


RECORDED = recorded()


def labels_of(name: str, exposed: Exposed) -> set[str]:
    """KeyError for a name that nobody shows."""
    if name in RECORDED or name in OF_PROMETHEUS:
        return RECORDED.get(name) or OF_PROMETHEUS[name]
    return exposed.labels[name] | TARGET_LABELS


def complaints(query: Query, exposed: Exposed) -> Iterator[str]:
    """What a query asks for and would never get."""
    for selector in query.selectors:
        yield from _complaints_of(selector, exposed)
    for group in query.groupings:
        carried = [labels_of(selector.name, exposed) for selector in group.of]
        for label in group.labels:
            if sum(label in labels for labels in carried) < (len(carried) if group.word == "by" else 2):
                yield f"{group.word} ({label}): {[selector.name for selector in group.of]} have no such label"


def _complaints_of(selector: Selector, exposed: Exposed) -> Iterator[str]:
    own = {"alertname": {*ALERTS, "Ranker.*"}, "alertstate": {"firing"}, "version": {"older"}}  # what may come later
    try:
        labels = labels_of(selector.name, exposed)
    except KeyError:
        yield f"no metric is called {selector.name}"
        return
    for label, values in selector.asked.items():
        if label not in labels:
            yield f"{selector.name} has no label {label}"
            continue
        for value in values - {*exposed.values.get(label, ()), *own.get(label, ())}:
            yield f"no series has {label}={value!r}"


def test_the_budget_that_is_watched_is_a_bound_of_the_histogram(exposed: Exposed) -> None:
    """Between two bounds a share is a guess, and the alert with it."""
    assert RULE_QUERIES["route:ranker_p99_budget_seconds"] in exposed.values["le"]


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_asks_for_what_metrics_show_and_for_nothing_else(query: str, exposed: Exposed) -> None:
    assert list(complaints(read(query), exposed)) == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("ranker_request_total", "no metric is called ranker_request_total"),
        ("rate(ranker_requests_total{rout='/rank'}[5m])", "ranker_requests_total has no label rout"),
        ("sum(ranker_requests_total{outcome=~'ok|fine'})", "no series has outcome='fine'"),
        ("ranker_degraded_total{reason='history:lost'}", "no series has reason='history:lost'"),
        ("sum by (stage) (ranker_requests_total)", "by (stage): ['ranker_requests_total'] have no such label"),
        ("sum(ranker_requests_total) by (stage)", "by (stage): ['ranker_requests_total'] have no such label"),
        ("up / on (route) ranker_requests_total", "on (route): ['up', 'ranker_requests_total'] have no such label"),
    ],
)
def test_a_query_for_what_there_is_not_is_found_out(query: str, complaint: str, exposed: Exposed) -> None:
    assert list(complaints(read(query), exposed)) == [complaint]


def test_every_kind_of_promql_is_read() -> None:
    query = read(
        """# a comment with a_name
        label_replace(sum by (a, b) (rate(x_total{c="d{}", e!~`f|g`}[5m:15s] offset 1d)), "s", "$1", "t", '(.*)')
          / on (a) group_left (h) (max(y) without (i) > bool 1e-3) and z @ end() or vector(Inf)"""
    )
    assert [selector.name for selector in query.selectors] == ["x_total", "y", "z"]
    assert query.selectors[0].matchers == (("c", "=", "d{}"), ("e", "!~", "f|g"))
    assert query.selectors[0].asked == {"c": set(), "e": {"f", "g"}}
    assert [(group.word, group.labels, [one.name for one in group.of]) for group in query.groupings] == [
        ("by", ("a", "b"), ["x_total"]),
        ("on", ("a",), ["x_total", "y", "z"]),
        ("group_left", ("h",), ["x_total", "y", "z"]),
        ("without", ("i",), ["y"]),
    ]


# --- the dashboard ---


@needs_promtool
def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """As the expressions of made-up recording rules, with values in place of Grafana's variables."""
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__(rate_interval|range)\b", "1m", query)}
        for number, query in enumerate(PANEL_QUERIES.values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_panels_ask_a_question_say_what_they_show_and_in_which_unit() -> None:
    for panel in PANELS:
        assert panel["title"].endswith("?") and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_panels_lie_within_the_page_and_not_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place: Mapping[str, int] = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_a_legend_names_labels_that_its_query_leaves(exposed: Exposed) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            query = read(target["expr"])
            kept = kept_by(query)
            if not query.groupings:
                kept = set.union(*(labels_of(selector.name, exposed) for selector in query.selectors))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, panel["title"]


def test_variables_are_those_that_queries_use_and_come_from_metrics(exposed: Exposed) -> None:
    variables = {variable["name"]: variable["query"] for variable in DASHBOARD["templating"]["list"]}
    everything = json.dumps(DASHBOARD)
    used = set(re.findall(r"\$\{?(\w+)", everything)) - {"__rate_interval", "__range", "__all"}
    assert used == set(variables)
    for name, query in variables.items():
        if name != "datasource":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", query["query"])
            assert found and found[2] in labels_of(read(found[1]).selectors[0].name, exposed)
            assert list(complaints(read(found[1]), exposed)) == []


# --- the containers ---


def test_what_is_open_is_open_on_this_machine_alone_and_no_password_is_in_the_repository() -> None:
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    grafana: dict[str, Any] = COMPOSE["services"]["grafana"]["environment"]
    assert not [key for key in grafana if "PASSWORD" in key]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"  # else it is admin, and so is its password
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_images_are_pinned_and_what_listens_says_when_it_is_well() -> None:
    others = COMPOSE["services"].values()
    for name, service in COMPOSE["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
        waited = {other["depends_on"][name]["condition"] for other in others if name in other.get("depends_on", ())}
        ends = waited == {"service_completed_successfully"}
        if "build" not in service and not ends:  # ours has its check in the Dockerfile
            assert service["healthcheck"]["test"], name


def test_the_files_that_containers_are_given_are_there_and_point_to_each_other() -> None:
    given = {
        target: ROOT / source
        for name in ("prometheus", "grafana")
        for source, target, *_ in (volume.split(":") for volume in COMPOSE["services"][name]["volumes"])
        if source.startswith(".")
    }
    assert all(source.exists() for source in given.values()), given
    scrape = yaml.safe_load(given["/etc/prometheus/prometheus.yml"].read_text())
    assert all(f"/etc/prometheus/{file}" in given for file in scrape["rule_files"])
    assert [job["job_name"] for job in scrape["scrape_configs"]] == ["ranker"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/bst-ranker.yml").read_text())["providers"]
    assert list(given[provider["options"]["path"]].glob("*.json"))
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["jsonData"]["timeInterval"] == scrape["global"]["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"


def test_probes_and_scrapes_go_to_the_port_that_load_does_not_reach() -> None:
    image = (ROOT / "Dockerfile").read_text()
    port = re.search(r"RANKER_ADMIN_PORT=(\d+)", image)
    assert port and f"EXPOSE 8000 {port[1]}" in image
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == [f"service:{port[1]}"]


@pytest.mark.parametrize(("admin", "asked"), [("8001", 8001), ("0", 8000), ("", 8000), (None, 8000)])
def test_the_image_s_check_asks_the_admin_port_where_there_is_one(
    admin: str | None, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = re.search(r'CMD \["python", "-c", "(.*)"\]', (ROOT / "Dockerfile").read_text())
    assert check
    ports = []

    def connect(where: tuple[str, int], *_: object, **__: object) -> None:
        ports.append(where[1])
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.delenv("RANKER_PORT", raising=False)
    monkeypatch.delenv("RANKER_ADMIN_PORT", raising=False)
    if admin is not None:
        monkeypatch.setenv("RANKER_ADMIN_PORT", admin)
    with pytest.raises(ConnectionRefusedError):
        exec(check[1], {})
    assert ports == [asked]


@pytest.mark.parametrize("alert", ALERTS)
def test_the_page_of_operations_says_what_to_do_about_an_alert(alert: str) -> None:
    assert f"| `{alert}` |" in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_the_page_that_says_what_to_do(alert: str) -> None:
    (annotations,) = [rule["annotations"] for rule in RULE_LIST if rule.get("alert") == alert]
    page, _, section = annotations["runbook"].partition("#")
    assert f"## {section.capitalize()}" in (ROOT / page).read_text()


IMAGE = (ROOT / "Dockerfile").read_text()


def test_the_image_sets_what_the_code_sets_so_that_nothing_in_it_phones_home() -> None:
    for name, text in quiet.ALWAYS.items():
        assert f"{name}={text}" in IMAGE


def required(extras: str) -> set[str]:
    """Packages that the image is given, as its recipe finds them."""
    ran = subprocess.run(
        [sys.executable, ".ci/requirements", extras], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {re.split("[<>=[;]", line)[0] for line in ran.stdout.splitlines()}


def test_an_image_has_what_its_extras_name_and_says_what_is_in_it() -> None:
    extras = re.search(r"^ARG EXTRAS=(\S+)$", IMAGE, re.MULTILINE)
    assert extras and 'RUN python requirements "$EXTRAS" ' in IMAGE
    needed = required(extras[1])
    assert {"fastapi", "onnxruntime", "opentelemetry-sdk"} <= needed and not needed & {"torch", "polars"}
    assert {"fastapi", "polars", "duckdb"} <= required("tables") and "torch" not in required("tables")
    assert {"fastapi", "polars", "torch"} <= required("train") and not [
        one for one in required("train") if "bst" in one
    ]
    assert "/opt/ranker/sbom.json" in IMAGE
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", IMAGE, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines(), name


def test_the_container_gets_the_time_that_the_service_takes_to_stop_and_no_folder_that_it_does_not_need() -> None:
    service = COMPOSE["services"]["service"]
    for one in (service, SCALE["ranker-a"], SCALE["ranker-b"]):
        assert float(one["stop_grace_period"].removesuffix("s")) > Settings.model_fields["shutdown_grace_s"].default
    assert service["read_only"] and "tmpfs" not in service
    assert service["shm_size"] == "160mb" and 160 * 2**20 >= 20 * FOLDER_BYTES_PER_WORKER


def test_the_profile_of_several_instances_starts_only_where_it_is_asked_for() -> None:
    for name, service in COMPOSE["services"].items():
        assert name in SCALE or not set(service.get("depends_on", ())) & set(SCALE), name
    nodes = [name for name in SCALE if name.startswith("node-")]
    addresses = [SCALE[name]["networks"]["cluster"]["ipv4_address"] for name in nodes]
    (subnet,) = COMPOSE["networks"]["cluster"]["ipam"]["config"]
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network(subnet["subnet"]) for one in addresses)
    for name in ("ranker-a", "ranker-b", "scale-users"):
        url = SCALE[name]["environment"]["RANKER_REDIS_URL"]
        assert url == "redis+cluster://" + ",".join(addresses[:3]), name
    assert SCALE["cluster"]["depends_on"] == {name: {"condition": "service_healthy"} for name in nodes}
    assert {SCALE[name]["volumes"][0] for name in nodes} == {f"{name}:/data" for name in nodes}


def test_the_balancer_asks_the_admin_port_and_has_the_time_to_look_away() -> None:
    config = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    if program := balancer.installed():
        ran = subprocess.run([program, "-c", "-f", DEPLOY / "haproxy" / "haproxy.cfg"], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    check = re.search(r"check port (\d+) inter (\d+)s fall (\d+)", config)
    assert check and f"RANKER_ADMIN_PORT={check[1]}" in IMAGE and "httpchk GET /health/ready" in config
    assert int(check[2]) * int(check[3]) < Settings.model_fields["drain_s"].default
    idle = re.search(r"timeout http-keep-alive (\d+)s", config)
    assert idle and int(idle[1]) < Settings.model_fields["keep_alive_s"].default
    servers = re.findall(r"^    server \w+ ([\w-]+):(\d+)$", config, re.MULTILINE)
    port = Settings.model_fields["port"].default
    assert servers == [("ranker-a", str(port)), ("ranker-b", str(port))] and set(dict(servers)) <= set(SCALE)
    (listening,) = re.findall(r"bind :(\d+)", config)
    assert SCALE["balancer"]["ports"] == [f"127.0.0.1:{listening}:{listening}"]
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["dns_sd_configs"] == [{"names": [*dict(servers)], "type": "A", "port": int(check[1])}]


@pytest.mark.parametrize("named", ["/bundles", "/bundles/bst_mine"])
def test_bundles_are_mounted_where_the_comments_say(named: str) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    assert named in IMAGE and named in compose and "/bundles:/bundles:ro" in IMAGE and "/bundles:/bundles:ro" in compose


def test_what_audits_packages_says_so_where_it_cannot_ask(tmp_path: Path) -> None:
    def audited(says: str, code: int, **environment: str) -> tuple[int, str]:
        tool = tmp_path / "pip-audit"
        tool.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
        tool.chmod(0o755)
        ran = subprocess.run(
            [ROOT / ".ci" / "audit", tool],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]} | environment,
        )
        return ran.returncode, ran.stdout + ran.stderr

    assert audited("No known vulnerabilities found", 0)[0] == 0
    assert audited("Found 2 known vulnerabilities in 1 package", 1)[0] == 1
    unasked = audited("ERROR: Dependency not found on PyPI", 1)
    assert unasked[0] == 2 and "nothing is proved" in unasked[1]
    assert audited("ERROR: Dependency not found on PyPI", 1, AUDIT_MAY_FAIL="1")[0] == 0
