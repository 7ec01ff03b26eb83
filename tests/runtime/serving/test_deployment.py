"""examples/deploy: what can be known of its files without Docker, Kubernetes, Prometheus or Grafana."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coda_runtime.cli.serve import command
from coda_runtime.serving.errors import KINDS
from tests.runtime import tiny
from tests.runtime.serving.process import Server, body, ids_body

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[3] / "examples" / "deploy"
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}


def dockerfile() -> list[tuple[str, str]]:
    """Each instruction and what it says."""
    text = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def kubernetes() -> dict[str, Any]:
    """Each object by its kind."""
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def page(server: Server) -> str:
    """/metrics of a server that has encoded, decoded and refused something."""
    image = io.BytesIO()
    Image.fromarray(tiny.photos(1, 40, 50)[0]).save(image, "PNG")
    pixels = tiny.photos(1)[:, : tiny.SIZE, : tiny.SIZE]
    assert server.post("/v2/models/encode/infer", body(pixels, "image", "UINT8"))[0] == 200
    assert server.post("/v2/models/decode/infer", ids_body())[0] == 200
    assert server.post("/v2/models/decode/infer", body(np.full((1, 1), 99), "ids", "INT32"))[0] == 400
    return server.get("/metrics")[1]


def series(page: str) -> dict[str, set[str]]:
    """The labels of each series, by its name; of what has no sample yet, none."""
    names: dict[str, set[str]] = {name: set() for name in re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)}
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*?)\})? ", page, re.MULTILINE):
        names.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return names


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return read


def of_the_dashboard() -> list[str]:
    variables = [entry["query"] for entry in dashboard()["templating"]["list"] if entry["type"] == "query"]
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]] + variables


def of_the_alerts() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("expressions", [of_the_dashboard, of_the_alerts])
def test_every_metric_is_one_of_the_server_s(page: str, expressions: Any) -> None:
    known = series(page)
    for expression in expressions():
        assert expression.count("(") == expression.count(")")
        names = re.findall(r"\bcoda_\w+", expression)
        assert names, expression
        assert set(names) <= known.keys(), expression
        # Prometheus adds these itself.
        labels = set(re.findall(r"(\w+)=~?\"", expression)) - {"job"}
        labels |= {label for by in re.findall(r"by \((.*?)\)", expression) for label in by.split(", ")} - {"instance"}
        assert labels <= set().union(*(known[name] for name in names)), expression
        assert set(re.findall(r'kind="(\w+)"', expression)) <= set(KINDS)


def test_every_metric_of_the_server_is_on_the_dashboard(page: str) -> None:
    mine = {name for name in re.findall(r"^# TYPE (coda_\w+) ", page, re.MULTILINE) if not name.endswith("_created")}
    told = " ".join(of_the_dashboard())
    assert {name for name in mine if name not in told} == set()


def test_panels_do_not_lie_on_each_other() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    cells = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + 8)]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)


def test_prometheus_asks_where_the_service_answers() -> None:
    read = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    service = kubernetes()["Service"]
    (static,) = [job for job in read["scrape_configs"] if "static_configs" in job]
    port = {port["name"]: port["port"] for port in service["spec"]["ports"]}["http"]
    assert static["static_configs"][0]["targets"] == [f"{service['metadata']['name']}:{port}"]
    assert [(DEPLOY / name).is_file() for name in read["rule_files"]] == [True]


def test_the_image_runs_the_command_and_not_as_root(server: Server) -> None:
    lines = dockerfile()
    assert {instruction for instruction, _ in lines} <= INSTRUCTIONS
    stages = [said for instruction, said in lines if instruction == "FROM"]
    assert [said.split(" AS ")[-1] for said in stages] == ["install", "python:3.12-slim"]
    last = lines[[instruction for instruction, _ in lines].index("FROM", 1) :]
    said = dict(last)
    assert said["USER"] == "1000:1000"
    assert [i for i, (instruction, _) in enumerate(last) if instruction in ("RUN", "COPY")][-1] < last.index(
        ("USER", "1000:1000")
    )
    program, name, *arguments = json.loads(said["ENTRYPOINT"])
    assert (program, name) == ("coda", "serve")
    values = command.make_context("serve", arguments).params
    assert said["EXPOSE"].split() == [str(values["http_port"]), str(values["grpc_port"])]
    (health,) = re.findall(rf"http://127\.0\.0\.1:{values['http_port']}(/\S+?)'", said["HEALTHCHECK"])
    assert server.get(health)[0] == 200


def test_the_pods_are_those_of_the_service(server: Server) -> None:
    found = kubernetes()
    assert set(found) == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    deployment, pod = found["Deployment"], found["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    scaled = found["HorizontalPodAutoscaler"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["minReplicas"] <= deployment["spec"]["replicas"] <= scaled["maxReplicas"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == set(ports)
    entry = json.loads(dict(dockerfile())["ENTRYPOINT"])
    values = command.make_context("serve", entry[2:] + container["args"]).params
    assert ports == {"http": values["http_port"], "grpc": values["grpc_port"]}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["http"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
        assert server.get(container[probe]["httpGet"]["path"])[0] == 200
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > values["drain_seconds"] + sleep
    assert container["resources"]["requests"]["cpu"] == str(values["threads"])
    user = dict(dockerfile())["USER"].split(":")[0]
    assert pod["spec"]["securityContext"]["runAsUser"] == int(user)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    cache = re.findall(r"XDG_CACHE_HOME=(\S+)", dict(dockerfile())["ENV"])
    assert any(cache[0].startswith(f"{path}/") for path in mounted), "the root is read-only"
