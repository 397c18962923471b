"""The files in etc/kubernetes agree with the chart stackstorm-ha, each other, and the pack.

No test needs a cluster or Helm. CHART_VALUES and MANIFEST_FIELDS list what is used of the published
values and schemas; add a key only after you have found it there.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from poundcake import config
from tests import documents

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "etc" / "kubernetes"
ANY = object()

# The keys of values.yaml in stackstorm-ha 1.1.0 (github.com/StackStorm/stackstorm-k8s, tag v1.1.0).
# A sensor takes name and ref and, according to templates/deployments.yaml, the keys of
# st2sensorcontainer.
EXTRA_VOLUME = {"name": ANY, "mount": {"mountPath": ANY, "readOnly": ANY}, "volume": ANY}
CHART_VALUES = {
    "image": {"tag": ANY},
    "st2": {
        "packs": {
            "configs": ANY,
            "images": [{"repository": ANY, "name": ANY, "tag": ANY, "pullPolicy": ANY}],
            "sensors": [
                {
                    "name": ANY,
                    "ref": ANY,
                    "resources": ANY,
                    "livenessProbe": ANY,
                    "readinessProbe": ANY,
                    "podSecurityContext": ANY,
                    "affinity": ANY,
                    "extra_volumes": [EXTRA_VOLUME],
                }
            ],
        }
    },
    "st2actionrunner": {"extra_volumes": [EXTRA_VOLUME]},
}

METADATA = {"name": ANY, "labels": ANY}
# The fields of Kubernetes 1.31 and of the Prometheus operator's CRDs.
MANIFEST_FIELDS = {
    ("v1", "PersistentVolumeClaim"): {"accessModes": ANY, "resources": {"requests": ANY}},
    ("v1", "Service"): {
        "selector": ANY,
        "ports": [{"name": ANY, "port": ANY, "targetPort": ANY, "protocol": ANY}],
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector": ANY,
        "policyTypes": ANY,
        "ingress": [
            {
                "ports": [{"port": ANY, "protocol": ANY}],
                "from": [{"namespaceSelector": ANY, "podSelector": ANY}],
            }
        ],
    },
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "selector": ANY,
        "jobLabel": ANY,
        "endpoints": [
            {
                "port": ANY,
                "path": ANY,
                "interval": ANY,
                "authorization": {"credentials": {"name": ANY, "key": ANY}},
            }
        ],
    },
    ("monitoring.coreos.com/v1alpha1", "AlertmanagerConfig"): {
        "route": {
            "receiver": ANY,
            "groupBy": ANY,
            "groupWait": ANY,
            "groupInterval": ANY,
            "repeatInterval": ANY,
        },
        "receivers": [
            {
                "name": ANY,
                "webhookConfigs": [
                    {
                        "url": ANY,
                        "sendResolved": ANY,
                        "maxAlerts": ANY,
                        "httpConfig": {
                            "followRedirects": ANY,
                            "authorization": {
                                "type": ANY,
                                "credentials": {"name": ANY, "key": ANY},
                            },
                        },
                    }
                ],
            }
        ],
    },
}


def load(name):
    """Return the documents of a file."""
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def assert_known(value, known, path):
    """Check that a value has only known keys."""
    if known is ANY:
        return
    if isinstance(known, list):
        assert isinstance(value, list) and value, path
        for item in value:
            assert_known(item, known[0], f"{path}[]")
        return
    assert isinstance(value, dict), path
    for key, item in value.items():
        assert key in known, f"{path}.{key}"
        assert_known(item, known[key], f"{path}.{key}")


@pytest.fixture
def values():
    (document,) = load("values.yaml")
    return document


@pytest.fixture
def manifests():
    documents = load("poundcake.yaml") + load("alertmanagerconfig.yaml")
    return {document["kind"]: document for document in documents}


def test_the_chart_has_each_value(values):
    assert_known(values, CHART_VALUES, "values")


def test_each_manifest_has_only_known_fields(manifests):
    for manifest in manifests.values():
        assert_known(
            manifest["spec"], MANIFEST_FIELDS[manifest["apiVersion"], manifest["kind"]], "spec"
        )
        assert_known(manifest["metadata"], METADATA, "metadata")


def test_a_misspelt_key_is_found(values):
    values["st2"]["packs"]["sensors"][0]["livenesProbe"] = {}
    with pytest.raises(AssertionError, match="livenesProbe"):
        assert_known(values, CHART_VALUES, "values")


def test_the_sensor_is_that_of_the_pack(values):
    (sensor,) = values["st2"]["packs"]["sensors"]
    (metadata,) = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob("sensors/*.yaml")
    )
    assert sensor["ref"] == f"poundcake.{metadata['class_name']}"


def test_the_service_and_the_policy_select_the_pod_of_the_sensor(values, manifests):
    (sensor,) = values["st2"]["packs"]["sensors"]
    labels = {
        "app.kubernetes.io/name": f"st2sensorcontainer-{sensor['name']}",
        "app.kubernetes.io/instance": "stackstorm",
    }
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert sensor["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0][
        "podAffinityTerm"
    ]["labelSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": labels["app.kubernetes.io/name"]
    }


def test_every_port_is_that_of_the_endpoint(values, manifests):
    (sensor,) = values["st2"]["packs"]["sensors"]
    (port,) = manifests["Service"]["spec"]["ports"]
    (rule,) = manifests["NetworkPolicy"]["spec"]["ingress"]
    ports = {
        sensor["livenessProbe"]["httpGet"]["port"],
        sensor["readinessProbe"]["httpGet"]["port"],
        port["port"],
        port["targetPort"],
        rule["ports"][0]["port"],
    }
    assert ports == {8000}
    (endpoint,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] == port["name"]


def test_the_probes_need_no_credential(values):
    """The endpoint answers this route without a credential."""
    (sensor,) = values["st2"]["packs"]["sensors"]
    paths = {sensor[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert paths == {"/api/v1/health/live"}


def test_the_journal_is_on_a_volume(values, manifests):
    (sensor,) = values["st2"]["packs"]["sensors"]
    volumes = {volume["mount"]["mountPath"]: volume["volume"] for volume in sensor["extra_volumes"]}
    schema = yaml.safe_load((ROOT / "config.schema.yaml").read_text(encoding="utf-8"))
    claim = volumes[schema["state_dir"]["default"]]["persistentVolumeClaim"]["claimName"]
    assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    assert sensor["podSecurityContext"]["fsGroup"]


def test_the_configuration_of_the_pack_is_valid_and_changes_nothing(values):
    text = values["st2"]["packs"]["configs"]["poundcake.yaml"]
    for name in re.findall(r"file:[\w./]+", text):
        text = text.replace(name, "sqlite:////x" if "database" in name else "0123456789abcdef")
    loaded = config.load(yaml.safe_load(text))
    assert loaded.dry_run and loaded.host == "0.0.0.0"
    assert loaded.endpoint_url == "http://poundcake:8000"


def test_each_secret_of_the_configuration_is_in_the_secret(values, manifests):
    """docs/KUBERNETES.md creates the Secrets."""
    document = (ROOT / "docs" / "KUBERNETES.md").read_text(encoding="utf-8")
    text = values["st2"]["packs"]["configs"]["poundcake.yaml"]
    names = re.findall(r"file:/etc/poundcake/([\w.]+)", text)
    assert len(names) == 3
    for name in names:
        assert f"--from-file={name}" in document
    credentials = manifests["ServiceMonitor"]["spec"]["endpoints"][0]["authorization"]
    assert credentials["credentials"] == {"name": "poundcake", "key": "prometheus.token"}
    (receiver,) = manifests["AlertmanagerConfig"]["spec"]["receivers"]
    secret = receiver["webhookConfigs"][0]["httpConfig"]["authorization"]["credentials"]
    assert f"generic {secret['name']} --from-file={secret['key']}=" in document


def test_the_actions_and_the_sensor_read_the_same_secrets(values):
    (sensor,) = values["st2"]["packs"]["sensors"]
    (runner_volume,) = values["st2actionrunner"]["extra_volumes"]
    assert runner_volume in sensor["extra_volumes"]


def test_the_image_and_the_pods_have_the_same_release_of_stackstorm(values):
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM stackstorm/st2:{values['image']['tag']} AS builder" in dockerfile


def test_the_image_has_the_version_of_the_pack(values):
    (image,) = values["st2"]["packs"]["images"]
    metadata = yaml.safe_load((ROOT / "pack.yaml").read_text(encoding="utf-8"))
    assert image["tag"] == metadata["version"]
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f"{image['repository']}/{image['name']}:{image['tag']}" in text


def test_the_image_contains_no_hidden_files():
    """`.env` and `.git` would otherwise be copied into the image."""
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ".*" in ignored and "etc/poundcake.token" in ignored


def test_the_alert_rules_are_those_of_the_other_installations(tmp_path):
    block = documents.find_block(ROOT / "docs" / "KUBERNETES.md", "sh", "PrometheusRule")
    command = block.splitlines()[0].replace(" etc/", f" {ROOT}/etc/")
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    manifest = yaml.safe_load((tmp_path / "poundcake-rules.yaml").read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )
    rules = yaml.safe_load((ROOT / "etc" / "poundcake.rules.yml").read_text(encoding="utf-8"))
    assert manifest["spec"] == rules


def test_the_notifications_are_those_of_the_example_for_alertmanager(manifests):
    example = yaml.safe_load((ROOT / "etc/alertmanager.yml").read_text(encoding="utf-8"))
    route = manifests["AlertmanagerConfig"]["spec"]["route"]
    assert route["groupBy"] == example["route"]["group_by"]
    assert route["groupInterval"] == example["route"]["group_interval"]
    webhook = manifests["AlertmanagerConfig"]["spec"]["receivers"][0]["webhookConfigs"][0]
    assert webhook["sendResolved"] and 0 < webhook["maxAlerts"] <= 5000
    assert webhook["url"].endswith("/api/v1/webhook")
