"""What the controller makes of a DriverClass at a real API server, with the rights of `gitops/bases/graf-controller`.

There is no kubelet here: what it would tell is written into the Pods' status.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_support import REPOSITORY, Api, process, wait_for

from graf.controller.cluster_api import ClusterApi
from graf.controller.deploy import ClusterKeeper, Desired
from graf.controller.dialing import Dialer
from graf.controller.driver_pki import DriverPki
from graf.controller.rendering import APPROVED, object_name, role_name
from graf.controller.rollout import Use
from graf.crd.driverclass import DriverClass

pytestmark = pytest.mark.timeout(110)
NAMESPACE = "graf-system"
NAMES = (f"d{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def controller_kubeconfig(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's controller as the base of the manifests lets it be."""
    rights = (REPOSITORY / "gitops/bases/graf-controller/rbac.yaml").read_text()
    api.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=rights)
    token = api.kubectl("-n", NAMESPACE, "create", "token", "graf-controller").strip()
    content = yaml.safe_load(api.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token}
    path = tmp_path_factory.mktemp("controller") / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


class SiteOf:
    """A controller's cluster keeper, driven round by round."""

    def __init__(self, api: Api, kubeconfig: Path, work: Path) -> None:
        self.api, self.kubeconfig, self.work = api, kubeconfig, work
        self.use: dict[str, tuple[Use, str]] = {}
        self.classes: dict[str, DriverClass] = {}
        self.existing: frozenset[str] | None = None
        self.start()

    def start(self) -> None:
        """The process starts, with what its disk has."""
        self.pki = DriverPki(self.work / "pki", "east")
        self.dialer = Dialer(Path("/run/graf/drivers"), self.work / "addresses.json", self.pki)
        self.keeper = ClusterKeeper(
            NAMESPACE,
            "/run/graf/drivers",
            dict,
            lambda: self.use,
            self.pki,
            self.dialer,
            self.work / "revisions",
            ClusterApi(NAMESPACE, self.kubeconfig),
        )

    def wants(self, name: str, image: str = "localhost/driver:1", **spec: Any) -> None:
        self.classes[name] = DriverClass.model_validate(
            {
                "metadata": {"name": name, "generation": 1, "annotations": spec.pop("annotations", {})},
                "spec": {
                    "driver": "demo.graf.dev",
                    "template": {"spec": {"containers": [{"name": "driver", "image": image}]}},
                    **spec,
                },
            }
        )

    def round(self) -> None:
        self.keeper.round(Desired(self.classes, (), self.existing))

    def reason(self, name: str) -> str:
        return self.keeper.states[name].reason

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.api.kubectl("-n", namespace, "get", kind, name, "-o", "json"))
        return document

    def exists(self, kind: str, name: str, namespace: str = NAMESPACE) -> bool:
        return "NotFound" not in self.api.kubectl("-n", namespace, "get", kind, name, check=False)

    def image(self, name: str) -> str:
        template = self.get("deployment", object_name(name))["spec"]["template"]
        return str(template["spec"]["containers"][0]["image"])

    def pod(self, name: str, **container_status: Any) -> None:
        """What the Deployment's controller and kubelet do: one Pod of the newest template, with this status."""
        self.api.kubectl("-n", NAMESPACE, "delete", "pods", "-l", f"graf.dev/driver-class={name}", "--force")
        template = self.get("deployment", object_name(name))["spec"]["template"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "generateName": f"{name}-"},
            "spec": template["spec"],
        }
        made = self.api.kubectl("-n", NAMESPACE, "create", "-f", "-", "-o", "name", stdin=json.dumps(body)).strip()
        driver = template["spec"]["containers"][0]
        status = {
            "conditions": [{"type": "Ready", "status": "False" if container_status else "True"}],
            "containerStatuses": [
                {
                    "name": driver["name"],
                    "image": driver["image"],
                    "imageID": "",
                    "ready": not container_status,
                    "restartCount": container_status.pop("restartCount", 0),
                    **container_status,
                }
            ],
        }
        patch = json.dumps({"status": status})
        self.api.kubectl("-n", NAMESPACE, "patch", made, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture
def site(api: Api, controller_kubeconfig: Path, tmp_path: Path) -> Iterator[SiteOf]:
    made = SiteOf(api, controller_kubeconfig, tmp_path)
    yield made
    kinds = "deployment,replicaset,service,role,rolebinding,serviceaccount,secret,pod"
    for name in made.classes:
        api.kubectl("-n", NAMESPACE, "delete", kinds, "-l", f"graf.dev/driver-class={name}", "--grace-period=0")


NO_IMAGE = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
NO_COMMAND = {
    "state": {"waiting": {"reason": "RunContainerError", "message": 'exec: "nope": executable file not found in $PATH'}}
}
CRASHES = {
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
    "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": "cannot open /data"}},
    "restartCount": 4,
}


def upgraded(site: SiteOf, name: str, use: Use, image: str = "localhost/driver:2", **spec: Any) -> None:
    """A driver that runs, and a class that has changed since."""
    site.use[name] = (use, f"vcu-db/db is {use.value}")
    site.wants(name)
    site.round()
    site.pod(name)
    site.round()
    assert site.keeper.states[name].running
    site.wants(name, image, **spec)
    site.round()


def test_a_class_becomes_a_deployment_with_an_account_of_its_own_and_no_token(site: SiteOf) -> None:
    name = next(NAMES)
    site.wants(name)
    site.round()
    deployment = site.get("deployment", object_name(name))
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (object_name(name), False)
    assert site.exists("serviceaccount", object_name(name))
    assert not site.exists("role", role_name(name))
    paths = {item["hostPath"]["path"] for item in pod["volumes"]}
    assert paths == {f"/var/lib/graf/driver-state/{name}", "/run/graf/drivers"}
    environment = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
    assert environment["GRAF_DRIVER_SOCKET"] == f"/run/graf/drivers/{name}.sock"


def test_permissions_become_a_role_and_go_away_with_the_last_one(site: SiteOf, api: Api) -> None:
    name = next(NAMES)
    site.wants(name, permissions=[{"resources": ["pods"], "verbs": ["get", "list"]}])
    site.round()
    user = f"--as=system:serviceaccount:{NAMESPACE}:{object_name(name)}"
    assert api.kubectl("-n", NAMESPACE, "auth", "can-i", "list", "pods", user, check=False).strip() == "yes"
    assert api.kubectl("-n", NAMESPACE, "auth", "can-i", "get", "secrets", user, check=False).strip() == "no"
    site.use[name] = (Use.STANDBY, "vcu-db/db is Standby here")
    site.wants(name)
    site.round()
    assert not site.exists("role", role_name(name))
    assert api.kubectl("-n", NAMESPACE, "auth", "can-i", "list", "pods", user, check=False).strip() == "no"


def test_an_administrator_may_bind_roles_to_the_account_himself(site: SiteOf) -> None:
    name = next(NAMES)
    pod = {"containers": [{"name": "driver", "image": "localhost/driver:1"}], "serviceAccountName": object_name(name)}
    site.wants(name, template={"spec": pod})
    site.round()
    made = site.get("deployment", object_name(name))["spec"]["template"]["spec"]
    assert (made["serviceAccountName"], made["automountServiceAccountToken"]) == (object_name(name), True)
    assert not site.exists("role", role_name(name))


def test_the_controller_cannot_hand_out_what_it_may_not_do_itself(site: SiteOf) -> None:
    name, other = next(NAMES), next(NAMES)
    site.wants(name, permissions=[{"resources": ["nodes"], "verbs": ["delete"]}])
    site.wants(other)
    site.round()
    assert site.reason(name) == "PermissionRefused"
    assert "attempting to grant RBAC permissions not currently held" in site.keeper.states[name].message
    assert not site.exists("deployment", object_name(name))
    assert site.exists("deployment", object_name(other)), "one refused class must not stop another"


def test_the_controller_itself_reads_no_secret_and_has_no_right_outside_of_its_namespace(
    site: SiteOf, api: Api
) -> None:
    user = f"--as=system:serviceaccount:{NAMESPACE}:graf-controller"
    for question in ("get secrets", "list secrets", "escalate roles", "bind roles", "create pods/exec", "create pods"):
        verb, resource = question.split()
        assert api.kubectl("-n", NAMESPACE, "auth", "can-i", verb, resource, user, check=False).strip() == "no"
    for question in ("create deployments", "patch roles", "list pods"):
        verb, resource = question.split()
        assert api.kubectl("-n", "default", "auth", "can-i", verb, resource, user, check=False).strip() == "no"


def test_a_driver_over_tls_gets_a_service_a_certificate_and_an_address_that_is_kept(site: SiteOf) -> None:
    name = next(NAMES)
    site.wants(name, endpoint={"kind": "TLS", "port": 7451})
    site.round()
    site.round()
    service = site.get("service", object_name(name))["spec"]
    secret = site.get("secret", f"{object_name(name)}-tls")
    assert sorted(secret["data"]) == ["ca.crt", "tls.crt", "tls.key"]
    assert base64.b64decode(secret["data"]["ca.crt"]) == site.pki.ca
    dial = site.dialer.dial(name)
    assert (dial.target, dial.server_name) == (f"{service['clusterIP']}:7451", f"{name}.driver.graf.dev")
    site.start()  # the process starts anew, and has asked nobody yet
    assert site.dialer.dial(name).target == dial.target
    assert site.pki.driver(name).secret() == secret["data"], "a restart makes no new certificate"


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (NO_IMAGE, "ImageMissing", "no such image"),
        ({"state": {"waiting": {"reason": "ErrImageNeverPull"}}}, "ImageMissing", "localhost/driver:1"),
        ({"state": {"waiting": {"reason": "InvalidImageName"}}}, "ImageMissing", "InvalidImageName"),
        (NO_COMMAND, "CommandMissing", "nope"),
        (CRASHES, "CrashLoop", "cannot open /data"),
    ],
    ids=["pull", "never-pull", "invalid-name", "command", "crash"],
)
def test_why_a_driver_does_not_run_is_told(site: SiteOf, status: dict[str, Any], reason: str, words: str) -> None:
    name = next(NAMES)
    site.wants(name)
    site.round()
    assert site.reason(name) == "Starting"
    site.pod(name, **dict(status))
    site.round()
    assert site.reason(name) == reason
    assert words in site.keeper.states[name].message
    assert not site.keeper.states[name].running


def test_a_changed_class_waits_while_its_driver_serves_an_active_component(site: SiteOf) -> None:
    name = next(NAMES)
    upgraded(site, name, Use.ACTIVE)
    assert (site.reason(name), site.image(name)) == ("UpgradeHeld", "localhost/driver:1")
    assert "graf switchover" in site.keeper.states[name].message
    site.use[name] = (Use.STANDBY, "vcu-db/db is Standby here")
    site.round()
    assert site.image(name) == "localhost/driver:2"


def test_an_upgrade_that_somebody_at_the_site_approves_is_done_at_once(site: SiteOf, api: Api) -> None:
    name = next(NAMES)
    upgraded(site, name, Use.STANDBY, upgrade="Manual")
    state = site.keeper.states[name]
    assert (state.reason, site.image(name)) == ("UpgradeNeedsApproval", "localhost/driver:1")
    approval = f"{APPROVED}={state.wanted_revision}"
    api.kubectl("-n", NAMESPACE, "annotate", "deployment", object_name(name), approval)
    site.round()
    assert site.image(name) == "localhost/driver:2"


def test_a_controller_that_has_just_started_restarts_no_driver(site: SiteOf) -> None:
    name = next(NAMES)
    upgraded(site, name, Use.ACTIVE)
    site.use.clear()  # no group has a role in this process yet
    site.start()
    site.round()
    assert (site.reason(name), site.image(name)) == ("UpgradeHeld", "localhost/driver:1")


def test_a_revision_that_cannot_start_is_taken_back_and_not_tried_again(site: SiteOf) -> None:
    name = next(NAMES)
    upgraded(site, name, Use.STANDBY)
    site.pod(name, **dict(NO_IMAGE))
    site.round()
    assert site.image(name) == "localhost/driver:1"
    site.pod(name)
    for _ in range(2):
        site.round()
        assert (site.reason(name), site.image(name)) == ("RolledBack", "localhost/driver:1")
    assert "ImageMissing" in site.keeper.states[name].message
    site.wants(name, "localhost/driver:3")
    site.round()
    assert site.image(name) == "localhost/driver:3", "another revision is another attempt"


def test_a_class_that_would_forget_the_epochs_waits_until_somebody_has_seen_to_them(site: SiteOf, api: Api) -> None:
    name = next(NAMES)
    upgraded(site, name, Use.NOTHING)
    site.pod(name)
    site.round()
    driver = {"name": "driver", "image": "localhost/driver:2"}
    mounted = {"volumeMounts": [{"name": "state", "mountPath": "/var/lib/graf/driver-state"}]}
    pod = {"containers": [driver | mounted], "volumes": [{"name": "state", "hostPath": {"path": "/srv/epochs"}}]}
    site.wants(name, template={"spec": pod})
    site.start()  # it is known after a restart too
    for status in ({}, CRASHES):  # neither that nothing uses it nor that it is broken lets epochs be forgotten
        site.pod(name, **dict(status))
        site.round()
        state = site.keeper.states[name]
        assert state.reason == "EpochsLeft"
        assert f"/var/lib/graf/driver-state/{name} (it would look in /srv/epochs)" in state.message
    volumes = site.get("deployment", object_name(name))["spec"]["template"]["spec"]["volumes"]
    assert "/srv/epochs" not in str(volumes)
    approval = f"{APPROVED}={state.wanted_revision}"
    api.kubectl("-n", NAMESPACE, "annotate", "deployment", object_name(name), approval)
    site.round()
    site.pod(name)
    site.round()
    assert (site.reason(name), site.keeper.states[name].running) == ("", True)


def test_a_pod_that_the_api_server_refuses_is_told_in_its_words(site: SiteOf, api: Api, tmp_path: Path) -> None:
    """By the real controllers of Deployments: under the Pod security `restricted` there is no hostPath."""
    label = "pod-security.kubernetes.io/enforce"
    program = str(api.kubectl_program.parent / "kube-controller-manager")
    controllers = "--controllers=deployment-controller,replicaset-controller"
    more = ["--leader-elect=false", "--secure-port=0", f"--kubeconfig={api.kubeconfig}"]
    api.kubectl("label", "namespace", NAMESPACE, f"{label}=restricted")
    name = next(NAMES)
    try:
        with process([program, controllers, *more], tmp_path / "log"):
            site.wants(name)

            def refused() -> bool:
                site.round()
                return site.reason(name) == "PodRefused"

            wait_for("the refusal", refused, 60)
            assert "graf-driver-state" in site.keeper.states[name].message
            assert "PodSecurity" in site.keeper.states[name].message
            api.kubectl("label", "namespace", NAMESPACE, f"{label}-")
            wait_for("the Pod", lambda: api.kubectl("-n", NAMESPACE, "get", "pods", "-o", "name"), 90)
            site.round()
            assert site.reason(name) == "Starting"
            assert "describe pod graf-driver-" in site.keeper.states[name].message
    finally:
        api.kubectl("label", "namespace", NAMESPACE, f"{label}-")


def test_a_driver_whose_last_pod_does_not_end_is_told_as_that(site: SiteOf, api: Api) -> None:
    name = next(NAMES)
    upgraded(site, name, Use.STANDBY)
    pods = ("pods", "-l", f"graf.dev/driver-class={name}")
    (pod,) = json.loads(api.kubectl("-n", NAMESPACE, "get", *pods, "-o", "json"))["items"]
    held = '{"metadata":{"finalizers":["example.org/hold"]}}'
    api.kubectl("-n", NAMESPACE, "patch", "pod", pod["metadata"]["name"], "--type=merge", "-p", held)
    api.kubectl("-n", NAMESPACE, "delete", *pods, "--wait=false", "--grace-period=0", "--force")
    site.round()
    assert site.reason(name) == "Ending"
    assert f"Pod {pod['metadata']['name']} was to end at" in site.keeper.states[name].message
    api.kubectl(
        "-n",
        NAMESPACE,
        "patch",
        "pod",
        pod["metadata"]["name"],
        "--type=merge",
        "-p",
        held.replace('["example.org/hold"]', "null"),
    )


def test_a_template_that_is_refused_changes_nothing_of_the_driver_that_runs(site: SiteOf, api: Api) -> None:
    name = next(NAMES)
    site.use[name] = (Use.STANDBY, "vcu-db/db is Standby here")
    site.wants(name, permissions=[{"resources": ["pods"], "verbs": ["get"]}])
    site.round()
    site.pod(name)
    site.round()
    typing_error = {"name": "driver", "image": "localhost/driver:2", "imagePullPolice": "Never"}
    fewer = [{"resources": ["services"], "verbs": ["get"]}]
    site.wants(name, template={"spec": {"containers": [typing_error]}}, permissions=fewer)
    site.round()
    assert site.reason(name) == "Refused"
    assert "imagePullPolice" in site.keeper.states[name].message
    assert site.image(name) == "localhost/driver:1"
    user = f"--as=system:serviceaccount:{NAMESPACE}:{object_name(name)}"
    assert api.kubectl("-n", NAMESPACE, "auth", "can-i", "get", "pods", user, check=False).strip() == "yes"


def test_a_class_that_was_never_accepted_leaves_nothing(site: SiteOf) -> None:
    name = next(NAMES)
    wrong = {"spec": {"containers": [{"name": "Driver_X", "image": "x"}]}}
    site.wants(name, template=wrong, permissions=[{"resources": ["pods"], "verbs": ["get"]}])
    site.round()
    assert site.reason(name) == "Refused"
    assert not site.exists("serviceaccount", object_name(name))
    assert not site.exists("role", role_name(name))


def test_drivers_are_replaced_one_at_a_time(site: SiteOf) -> None:
    first, second = next(NAMES), next(NAMES)
    for name in (first, second):
        site.use[name] = (Use.STANDBY, "vcu-db/db is Standby here")
        site.wants(name)
    site.round()
    for name in (first, second):
        site.pod(name)
    site.round()
    for name in (first, second):
        site.wants(name, "localhost/driver:2")
    site.round()
    assert (site.image(first), site.image(second)) == ("localhost/driver:2", "localhost/driver:1")
    assert site.reason(second) == "UpgradeWaits"
    site.pod(first)
    site.round()
    assert site.image(second) == "localhost/driver:2"


def test_only_a_class_that_is_known_to_be_gone_and_that_nothing_uses_is_removed(site: SiteOf) -> None:
    name, other = next(NAMES), next(NAMES)
    site.wants(name, endpoint={"kind": "TLS"}, permissions=[{"resources": ["pods"], "verbs": ["get"]}])
    site.wants(other)
    site.round()
    gone = site.classes.pop(name)
    site.round()
    assert site.exists("deployment", object_name(name)), "absence alone is no evidence"
    site.existing = frozenset({other, name})
    site.round()
    assert site.exists("deployment", object_name(name)), "it exists, only nothing here uses it now"
    site.existing = frozenset({other})
    site.use[name] = (Use.STANDBY, "vcu-db/db is Standby here")
    site.round()
    assert site.exists("deployment", object_name(name)), "a group still uses it"
    del site.use[name]
    site.start()
    site.round()
    for kind in ("deployment", "service", "serviceaccount"):
        assert not site.exists(kind, object_name(name)), kind
    for kind in ("role", "rolebinding"):
        assert not site.exists(kind, role_name(name)), kind
    assert not site.exists("secret", f"{object_name(name)}-tls")
    assert site.exists("deployment", object_name(other))
    site.classes[name] = gone
