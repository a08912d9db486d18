"""deploy/kubernetes held to the code: its ports, paths, settings, metrics, Secrets, commands; and to itself.

Whether a cluster takes the objects, test_kubernetes_shapes.py says; whether the containers run as they are told to,
tests/whole/test_kubernetes.py tries.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.train import UNPUBLISHED
from service.api.routes import ENDPOINTS
from service.drained import lately
from service.process import admin
from service.settings import Settings
from service.telemetry.families import OF_WORKERS
from service.telemetry.folder import FOLDER_BYTES_PER_WORKER
from tests.kubernetes.built import identity
from tests.kubernetes.manifests import BUILDS, HERE, IMAGE, containers, environment, one, pods, service_of

ROOT = Path(__file__).parents[2]
SERVING = ("base", "overlays/trial", "overlays/production")
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()

each_build = pytest.mark.parametrize("build", BUILDS)
each_serving = pytest.mark.parametrize("build", SERVING)


def settings_of(build: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the service would read them."""
    for name, value in environment(build, service_of(build)).items():
        monkeypatch.setenv(name, value)
    return Settings()


# --- the service's settings, ports and paths ---


@each_build
def test_a_setting_that_a_manifest_names_exists_and_is_allowed(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, container in containers(build):
        told = {key for key in environment(build, container) if key.startswith("RANKER_")}
        assert told <= {f"RANKER_{field.upper()}" for field in Settings.model_fields}, name
    if build in SERVING:
        settings_of(build, monkeypatch)


@each_serving
def test_ports_are_those_that_the_service_listens_on(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(build, monkeypatch)
    assert settings.host == "0.0.0.0"
    ports = {each["name"]: each["containerPort"] for each in service_of(build)["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    service = {each["name"]: (each["port"], each["targetPort"]) for each in one(build, "Service")["spec"]["ports"]}
    assert service == {name: (port, name) for name, port in ports.items()}
    ingress = one(build, "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["http", "admin"]


@each_serving
def test_probes_and_scrapes_ask_for_what_the_admin_process_answers(build: str) -> None:
    service = service_of(build)
    asked = {name: service[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in asked.values()} == {"admin"}
    assert [probe["path"] for probe in asked.values()] == [admin.READY, admin.READY, admin.LIVE]
    assert set(admin.PATHS) <= {endpoint.path for endpoint in ENDPOINTS if endpoint.method == "GET"}


def test_prometheus_scrapes_as_in_the_containers_by_the_name_that_rules_ask_for() -> None:
    monitor = one("overlays/production", "ServiceMonitor")["spec"]
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (endpoint,), (job,) = monitor["endpoints"], scrape["scrape_configs"]
    assert (endpoint["port"], endpoint["path"]) == ("admin", admin.METRICS)
    assert endpoint["interval"] == scrape["global"]["scrape_interval"]
    assert endpoint["scrapeTimeout"] == scrape["global"]["scrape_timeout"]
    service = one("overlays/production", "Service")["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= service.items()
    assert service[monitor["jobLabel"]] == job["job_name"]


@each_serving
def test_a_pod_has_the_time_that_the_service_takes_to_stop(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, spec = settings_of(build, monkeypatch), one(build, "Deployment")["spec"]["template"]["spec"]
    before = service_of(build)["lifecycle"]["preStop"]["sleep"]["seconds"]
    probe = service_of(build)["readinessProbe"]
    assert settings.drain_s <= settings.shutdown_grace_s / 2, "half of it is for what is under way"
    assert settings.drain_s > probe["periodSeconds"] * probe["failureThreshold"], "who balances by probes sees it too"
    last_pass = 30 if settings.journal else 5
    assert spec["terminationGracePeriodSeconds"] >= before + settings.shutdown_grace_s + last_pass


@each_serving
def test_a_pod_has_the_cores_and_the_memory_that_its_settings_need(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, limits = settings_of(build, monkeypatch), service_of(build)["resources"]["limits"]
    assert settings.workers == int(limits["cpu"])  # whole: threads are counted by the quota
    volumes = {each["name"]: each for each in one(build, "Deployment")["spec"]["template"]["spec"]["volumes"]}
    counts = volumes["shm"]["emptyDir"]
    assert counts["medium"] == "Memory" and bytes_of(counts["sizeLimit"]) >= 2 * (settings.workers + 1) * (
        FOLDER_BYTES_PER_WORKER
    )
    assert bytes_of(limits["memory"]) > bytes_of(counts["sizeLimit"]) + settings.workers * 160 * 2**20


def test_the_drain_has_the_memory_that_it_takes() -> None:
    limits = dict(containers("overlays/production"))["ranker/drain"]["resources"]["limits"]
    assert bytes_of(limits["memory"]) >= (lately.MEMORY_GIB + 0.5) * 2**30


def bytes_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([MG]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


@each_build
def test_what_containers_mount_is_there_and_folders_of_settings_are_mounted(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {identity(each)[1] for each in BUILDS["overlays/production"] if each["kind"] == "PersistentVolumeClaim"}
    for name, template in pods(build):
        volumes = {each["name"]: each for each in template["spec"].get("volumes", ())}
        for each in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"]):
            assert {mount["name"] for mount in each.get("volumeMounts", ())} <= set(volumes), name
        claimed = {
            each["persistentVolumeClaim"]["claimName"]
            for each in volumes.values()
            if "emptyDir" not in each and "secret" not in each
        }
        assert claimed <= claims, name
    if build in SERVING:
        settings = settings_of(build, monkeypatch)
        mounts = {Path(each["mountPath"]): each for each in service_of(build)["volumeMounts"]}
        assert settings.keys_file and not any("subPath" in each for each in mounts.values())  # it would never change
        assert mounts[settings.bundle]["readOnly"] and mounts[settings.keys_file.parent]["readOnly"]
        assert settings.journal is None or not mounts[settings.journal].get("readOnly")


# --- locked down ---


@each_build
def test_every_container_runs_in_a_namespace_that_is_restricted(build: str) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", IMAGE, re.MULTILINE)
    assert user
    for name, template in pods(build):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        ours = all(each["image"].rpartition("/")[2].startswith("bst-ranker") for each in spec["containers"])
        ids = spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]
        assert ids == (int(user[1]), int(user[2])) or not ours, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert all("hostPath" not in volume for volume in spec.get("volumes", ())), name
    for name, container in containers(build):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert container["resources"]["limits"].keys() == {"cpu", "memory"} == container["resources"]["requests"].keys()


@each_build
def test_no_service_puts_its_address_into_a_setting(build: str) -> None:
    """A Service named ranker sets RANKER_PORT=tcp://… in all pods of its namespace, unless they refuse."""
    assert "RANKER_PORT" in {f"RANKER_{field.upper()}" for field in Settings.model_fields}
    for name, template in pods(build):
        assert template["spec"]["enableServiceLinks"] is False, name


def secrets(node: Any) -> Iterator[tuple[str, str | None]]:
    """Name and key of each Secret that is asked for; None: all of its keys, as files."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("secretKeyRef", "credentials"):
                yield value["name"], value["key"]
            elif key == "secret" and isinstance(value, dict):
                yield value["secretName"], None
            else:
                yield from secrets(value)
    elif isinstance(node, list):
        for value in node:
            yield from secrets(value)


def test_secrets_are_asked_for_by_names_that_the_page_makes_and_hold_no_value() -> None:
    made = {
        (name, key)
        for name, rest in re.findall(
            r"^kubectl create secret generic (\S+)((?: \\?\n?[^\n]*?--from-\S+=\S+)+)", PAGE, re.M
        )
        for key in re.findall(r"--from-(?:literal|file)=(\w+)=", rest)
    }
    asked = set(secrets([*BUILDS.values()]))
    keys_file = Path(one("base", "ConfigMap")["data"]["RANKER_KEYS_FILE"])
    asked = {(name, key or keys_file.name) for name, key in asked}
    assert asked == made
    assert not [each for build in BUILDS.values() for each in build if each["kind"] == "Secret"]


# --- who finds whom ---


@each_serving
def test_what_selects_the_services_pods_selects_them_and_no_others(build: str) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods(build)}
    selectors = [
        one(build, "Service")["spec"]["selector"],
        one(build, "Deployment")["spec"]["selector"]["matchLabels"],
        one(build, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(each["spec"]["podSelector"]["matchLabels"] for each in BUILDS[build]
          if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].startswith("ranker")),
        *(each["labelSelector"]["matchLabels"]
          for each in one(build, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]),
    ]  # fmt: skip
    for selector in selectors:
        assert [name for name, has in labels.items() if selector.items() <= has.items()] == ["ranker"], selector


def test_the_store_of_a_trial_is_where_its_secret_and_its_policy_say() -> None:
    (port,) = one("overlays/trial", "Service", "redis")["spec"]["ports"]
    assert f"--from-literal=url=redis://redis:{port['port']}/0" in PAGE
    egress = one("overlays/trial", "NetworkPolicy")["spec"]["egress"][1]
    labels = dict(pods("overlays/trial"))["redis"]["metadata"]["labels"]
    assert egress["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert egress["ports"] == [{"port": port["port"]}]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert dict(containers("overlays/trial"))["redis/redis"]["image"] == compose["services"]["redis"]["image"]


# --- scaling ---


def test_pods_scale_by_a_metric_that_the_service_has_and_the_adapter_gives(tmp_path: Path) -> None:
    scaler = one("overlays/production", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one("overlays/production", "Deployment")["metadata"]["name"]
    assert "replicas" not in one("overlays/production", "Deployment")["spec"], "each apply would set them back"
    cpu, queue = scaler["metrics"]
    assert cpu["containerResource"]["container"] == service_of("overlays/production")["name"]
    (rule,) = yaml.safe_load((HERE / "prometheus-adapter.yaml").read_text())["rules"]
    name = queue["pods"]["metric"]["name"]
    assert name in {family for family, _ in OF_WORKERS.values()}
    assert rule["seriesQuery"].startswith(name + "{") and set(rule["name"].values()) == {name}
    asked = rule["metricsQuery"]
    for word, value in {"Series": name, "LabelMatchers": 'namespace="shop",pod=~"a|b"', "GroupBy": "pod"}.items():
        asked = asked.replace(f"<<.{word}>>", value)
    if shutil.which("promtool") is None:
        pytest.skip("promtool (package prometheus) is not installed")
    series = [
        {"series": f'{name}{{namespace="{where}", pod="{pod}", worker="{worker}"}}', "values": values}
        for where, pod, worker, values in (
            ("shop", "a", 0, "100x8"),
            ("shop", "a", 1, "0 0 200 0 400 0 400 0 0"),  # 200 in the mean, whether a window has its left end or not
            ("shop", "b", 0, "8x8"),
            ("other", "a", 0, "5000x8"),
        )
    ]
    expected = [{"labels": '{pod="a"}', "value": 300}, {"labels": '{pod="b"}', "value": 8}]
    check = {"interval": "15s", "input_series": series}
    check["promql_expr_test"] = [{"expr": asked, "eval_time": "90s", "exp_samples": expected}]
    file = tmp_path / "adapter_test.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [check]}))
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- images and training ---


def test_images_are_those_that_the_page_builds_in_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    asked = {each["image"] for build in BUILDS for _, each in containers(build) if "bst-ranker" in each["image"]}
    made = set(re.findall(r"^docker build .*-t (\S+)", PAGE, re.MULTILINE))
    local = {f"{name.rpartition('/')[2]}" for name in asked}
    assert local == made and {name.partition(":")[2] for name in asked} == {version}
    assert {name for name in asked if "/" not in name} == {f"bst-ranker:{version}"}, "overlays/trial has no registry"


def test_the_processes_of_a_training_find_each_other() -> None:
    job, (_, template) = one("training/train", "Job", "ranker-train"), next(pods("training/train"))
    (container,) = template["spec"]["containers"]
    told, spec = environment("training/train", container), job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert int(told["WORLD_SIZE"]) == spec["completions"] == spec["parallelism"]
    service = one("training/train", "Service", template["spec"]["subdomain"])["spec"]
    assert service["clusterIP"] == "None" and service["selector"].items() <= template["metadata"]["labels"].items()
    assert told["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{template['spec']['subdomain']}"
    assert int(told["MASTER_PORT"]) == container["ports"][0]["containerPort"] == service["ports"][0]["port"]
    fails, _ = spec["podFailurePolicy"]["rules"]
    assert fails["onExitCodes"]["containerName"] == container["name"]
    assert fails["onExitCodes"]["values"] == [2, UNPUBLISHED]


COMMANDS = {
    name: each["command"] for build in BUILDS for name, each in containers(build) if "-m" in each.get("command", ())
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_options_that_it_is_given(name: str) -> None:
    module, *given = COMMANDS[name][COMMANDS[name].index("-m") + 1 :]
    told = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    options = {word for word in given if word.startswith("--")}
    assert options and options <= set(re.findall(r"--[a-z-]+", told.stdout))


def test_what_one_step_writes_the_next_one_reads() -> None:
    commands = {name: each.get("command", []) for build in BUILDS for name, each in containers(build)}
    prepare, train = commands["ranker-prepare/prepare"], commands["ranker-train/train"]
    publish = commands["ranker-publish/publish"]
    data, out, name = (train[train.index(option) + 1] for option in ("--data", "--out", "--name"))
    assert prepare[prepare.index("--out") + 1] == data
    assert publish[publish.index("service.publish") + 1] == f"{out}/{name}"
    ((_, job),) = containers("training/prepare")
    assert bytes_of(job["resources"]["limits"]["memory"]) >= 1.5 * float(prepare[prepare.index("--memory") + 1]) * 2**30
