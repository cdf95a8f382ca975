"""deploy/: what dashboard, alerts and manifests speak of is what a process really serves."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import json
from prometheus_client.parser import text_string_to_metric_families

from at_work import Place, at_work, emit, until
from oncebox.cli import COMMANDS, make_app
from oncebox.service.config import Sources

DEPLOY = Path(__file__).parents[1] / "deploy"
ADDED = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""

_STRINGS = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"\b(oncebox_\w+)(\{[^}]*\})?")
_GROUPS = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_WORDS = {
    "sum", "max", "min", "by", "on", "and", "rate", "increase", "histogram_quantile",
}  # fmt: skip
_TOKEN = re.compile(r"\s+|[A-Za-z_]\w*|\d+(?:\.\d+)?|\[\d+[smhd]\]|==|!=|>=|<=|[-+*/<>=,(){}]")


def expressions() -> Iterator[tuple[str, str]]:
    """Where each is, and its text."""
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    for group in alerts["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    board = json.decode((DEPLOY / "grafana" / "oncebox.json").read_bytes())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    keda = yaml.safe_load((DEPLOY / "kubernetes" / "keda.yaml").read_text())
    for trigger in keda["spec"]["triggers"]:
        yield "keda", trigger["metadata"]["query"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of samples that a process serves, with their labels."""
    base = f"sqlite:///{tmp_path_factory.mktemp('served')}"
    place = Place(f"{base}/shop.db", f"{base}/billing.db", f"{base}/log.db", "orders")
    place.make()
    shop, billing, paid = place.services(lambda tx, paid: None)
    with at_work(shop, billing) as at:
        emit(shop, paid("a", 1))
        until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 1)
        until(lambda: "oncebox_consumer_lost_records" in at.metrics())
        until(lambda: "oncebox_outbox_pending" in at.metrics())
        _, text = at.get("/metrics")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def unknown(expression: str, served: dict[str, set[str]]) -> list[str]:
    """What an expression speaks of that is not there."""
    wrong: list[str] = []
    labels: set[str] = set(ADDED)
    for name, selector in _SELECTOR.findall(expression):
        if name not in served:
            wrong.append(name)
            continue
        labels |= served[name]
        wanted = re.findall(r"(\w+)\s*[=!]", _STRINGS.sub('""', selector))
        wrong += [f"{name}{{{label}}}" for label in wanted if label not in served[name] | ADDED]
    for group in _GROUPS.findall(expression):
        wrong += [label for label in re.split(r"[\s,]+", group) if label and label not in labels]
    plain = _SELECTOR.sub(" ", _GROUPS.sub(" ", _STRINGS.sub(" ", expression)))
    wrong += [word for word in re.findall(r"[A-Za-z_]\w*", re.sub(r"\[\w+\]", "", plain))
              if word not in _WORDS]  # fmt: skip
    wrong += [f"not balanced: {a}" for a, b in ("()", "{}", "[]")
              if expression.count(a) != expression.count(b)]  # fmt: skip
    wrong += [rest for rest in _TOKEN.sub("", _STRINGS.sub("", expression)).split() if rest]
    return wrong


def test_every_name_and_label_is_served(served: dict[str, set[str]]) -> None:
    found = list(expressions())
    assert len(found) > 30
    assert {where: wrong for where, text in found if (wrong := unknown(text, served))} == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("max(oncebox_gap)", ["oncebox_gap"]), ("sum by (key) (oncebox_gap_open)", ["key"]),
     ('oncebox_gap_open{source="x"}', ["oncebox_gap_open{source}"]),
     ("(oncebox_gap_open", ["not balanced: ("]), ("oncebox_gap_open ; 1", [";"]),
     ("rates(oncebox_gap_open[5m])", ["rates"])],
)  # fmt: skip
def test_what_is_not_served_is_found(
    served: dict[str, set[str]], text: str, wrong: list[str]
) -> None:
    assert unknown(text, served) == wrong


def test_alerts_say_what_to_do() -> None:
    """Each names a command that there is, or what to mend; its labels are those of its result."""
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    commands = {name for name, *_ in COMMANDS}
    for rule in (rule for group in alerts["groups"] for rule in group["rules"]):
        do, summary = rule["annotations"]["do"], rule["annotations"]["summary"]
        assert set(re.findall(r"oncebox ([a-z]+)", do)) <= commands, rule
        kept = {
            label for group in _GROUPS.findall(rule["expr"]) for label in re.split(r"[\s,]+", group)
        }
        assert set(re.findall(r"\$labels\.(\w+)", summary + do)) <= kept, rule
        assert rule["labels"]["severity"] in ("warning", "critical")
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    names = [rule["alert"] for group in alerts["groups"] for rule in group["rules"]]
    assert [name for name in names if name not in page] == []
    promtool = shutil.which("promtool")
    if promtool is not None:
        subprocess.run(
            [promtool, "check", "rules", DEPLOY / "prometheus" / "alerts.yaml"], check=True
        )


def test_every_metric_is_explained() -> None:
    from oncebox.metrics import FAMILIES

    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    names = [
        f"{name}_total" if family.kind == "counter" else name for name, family in FAMILIES.items()
    ]
    assert [name for name in names if f"`{name}`" not in page] == []


# ---- manifests


@pytest.mark.parametrize("name", ["relay", "consumer"])
def test_kubernetes_manifests(name: str) -> None:
    """Probes ask for what is served, on the port that is served; the command is understood."""
    found: Any = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    assert (found["apiVersion"], found["kind"]) == ("apps/v1", "Deployment")
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (
        found["spec"]["selector"]["matchLabels"] == found["spec"]["template"]["metadata"]["labels"]
    )
    (port,) = container["ports"]
    assert container["args"][-2:] == ["--http", f"0.0.0.0:{port['containerPort']}"]
    for probe, path in (("livenessProbe", "/live"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    understood(container["args"])


def understood(arguments: list[str]) -> None:
    app = make_app(arguments, Sources({}))
    command, _, left = app.parse_known_args(arguments)[:3]
    assert not left, left
    assert callable(command)


def test_keda_scales_what_is_deployed() -> None:
    scaled = yaml.safe_load((DEPLOY / "kubernetes" / "keda.yaml").read_text())
    consumer = yaml.safe_load((DEPLOY / "kubernetes" / "consumer.yaml").read_text())
    assert scaled["spec"]["scaleTargetRef"]["name"] == consumer["metadata"]["name"]


def test_systemd_unit(tmp_path: Path) -> None:
    """Its command is understood, and systemd finds nothing wrong with it, where there is one."""
    text = (DEPLOY / "systemd" / "oncebox@.service").read_text()
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    program, *arguments = unit["Service"]["ExecStart"].replace("%i", "1").split()
    assert program.endswith("/oncebox")
    understood(arguments)
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        own = tmp_path / "oncebox@1.service"
        here = f"{Path(sys.executable).parent}/oncebox"
        own.write_text(text.replace(program, here).replace("/etc/oncebox\n", f"{tmp_path}\n"))
        done = subprocess.run(
            [analyze, "verify", "--man=no", own], capture_output=True, text=True, check=False
        )
        mine = [line for line in done.stderr.splitlines() if "oncebox@1" in line]
        assert mine == []
