"""graf-manager as a process, against a real API server, a real Git repository, and streams with real certificates."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cluster_support import Api, Authority, Git, Manager, wait_for

from graf.cli.drivers import Row, rows
from graf.shell.group_api import KubeGroupApi
from graf.shell.proto import manager_pb2 as pb
from graf.shell.proto import manager_pb2_grpc as pb_grpc
from graf.shell.tls import channel_credentials, channel_options

pytestmark = pytest.mark.timeout(110)


class Site:
    """A site's controller as far as the manager sees it: dials, reports, records, takes commands."""

    def __init__(self, name: str, port: int, tls: Path) -> None:
        self.name = name
        self.role, self.epoch, self.active, self.members = "Standby", 0, False, ["east", "west"]
        self.assignments: list[pb.Assignments] = []
        self.commands: list[pb.Command] = []
        self.acks: list[str] = []
        self._outgoing: list[pb.SiteMessage] = []
        self._stop = threading.Event()
        self._channel = (f"127.0.0.1:{port}", tls)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def send(self, message: pb.SiteMessage) -> None:
        self._outgoing.append(message)

    def record(self, **fields: Any) -> None:
        self.send(pb.SiteMessage(record=pb.Record(group="vcu-db", kind="Decision", **fields)))

    def activate(self, epoch: int) -> None:
        self.role, self.epoch = "Active", epoch

    def stand_by(self, epoch: int) -> None:
        self.role, self.epoch = "Standby", epoch

    def report(self) -> pb.SiteMessage:
        active = self.role == "Active"
        group = pb.GroupReport(
            group="vcu-db",
            role=self.role,
            epoch=self.epoch,
            lease_left_ms=500 if active else -1,
            synchronous_set=self.members,
            set_epoch=max(1, self.epoch),
            set_counter=1,
            promotable=not active,
            components=[
                pb.ComponentReport(name="route", driver_class="network", lag_seconds=-1, predicted_reach_ms=4000)
            ],
        )
        driver = pb.DriverReport(
            driver_class="network",
            deployed=True,
            reachable=True,
            ready=self.name == "east",
            name="network.graf.dev",
            version="1.2.3",
            capabilities=["GATE"],
            reason="" if self.name == "east" else "ImageMissing",
        )
        peers = [pb.PeerView(name="west", reachable=True)]
        return pb.SiteMessage(report=pb.SiteReport(groups=[group], peers=peers, drivers=[driver]))

    async def _run(self) -> None:
        target, tls = self._channel
        while not self._stop.is_set():
            options = channel_options("manager.graf.dev")
            async with grpc.aio.secure_channel(target, channel_credentials(tls), options=options) as channel:
                try:
                    await self._session(pb_grpc.ManagerLinkStub(channel).Connect())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # refused, or ended while writing
                    await asyncio.sleep(0.2)

    async def _session(self, call: Any) -> None:
        await call.write(pb.SiteMessage(hello=pb.SiteHello(incarnation="1", version="test")))
        reader = asyncio.create_task(self._read(call))
        try:
            while not self._stop.is_set() and not reader.done():
                while self._outgoing:
                    await call.write(self._outgoing.pop(0))
                await call.write(self.report())
                await asyncio.sleep(0.2)
        finally:
            call.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            match message.WhichOneof("body"):
                case "assignments":
                    self.assignments.append(message.assignments)
                case "command":
                    self.commands.append(message.command)
                case "record_ack":
                    self.acks.append(message.record_ack.id)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


def group_status(api: Api) -> dict[str, Any]:
    text = api.kubectl("-n", "graf-system", "get", "redundancygroup", "vcu-db", "-o", "json")
    status: dict[str, Any] = json.loads(text).get("status", {})
    return status


def test_the_manager_applies_git_streams_assignments_records_decisions_and_runs_operations(
    api: Api, git: Git, authority: Authority, start_manager: Any, tmp_path: Path
) -> None:
    policy = git.tree / "policies" / "lossless-automatic.yaml"
    policy.write_text(policy.read_text().replace("stabilisationWindowSeconds: 5", "stabilisationWindowSeconds: 1"))
    git.push("Start", {})
    manager: Manager = start_manager("first")
    sites: dict[str, Site] = {}
    try:
        wait_for("the group from Git", lambda: "vcu-db" in api.kubectl("-n", "graf-system", "get", "rg"), 40)
        for name in ("east", "west"):
            tls = authority.issue(tmp_path / name, f"{name}.voter.graf.dev")
            sites[name] = Site(name, manager.port, tls)
        _bootstrap(api, git, sites)
        _tells_of_the_drivers(api)
        _refuses_a_bad_commit(api, git)
        _switches_over(api, git, sites)
        _goes_back_by_itself(api, sites)
    except BaseException:
        print(manager.log.read_text()[-6000:])  # noqa: T201  (shown by pytest on failure)
        raise
    finally:
        for site in sites.values():
            site.stop()


def _bootstrap(api: Api, git: Git, sites: dict[str, Site]) -> None:
    east, west = sites["east"], sites["west"]
    wait_for("assignments at both sites", lambda: east.assignments and west.assignments)
    spec = json.loads(east.assignments[-1].group_assignments_json[0])
    assert (spec["site"], spec["initialSite"], spec["epoch"], spec["timing"]["ttlMs"]) == ("east", "east", 0, 700)
    classes = [json.loads(raw)["metadata"]["name"] for raw in east.assignments[-1].driver_classes_json]
    assert classes == ["mysql", "network"]
    east.activate(1)
    west.stand_by(1)
    east.record(id="00000000000001-east-a", type="Bootstrap", epoch=1, to_site="east", reasons=["Bootstrap: first"])
    wait_for("the acknowledgement of the bootstrap", lambda: "00000000000001-east-a" in east.acks)
    wait_for("ACTIVE in the status", lambda: group_status(api).get("activeSite") == "east")
    wait_for("READY 2/2", lambda: group_status(api).get("ready") == "2/2")
    assert "Graf-Epoch: 1" in git.log()
    assert yaml.safe_load(git.show("records/vcu-db.yaml"))["activeSite"] == "east"
    assert yaml.safe_load(git.show("clusters/west/vcu-db.yaml"))["spec"]["role"] == "Standby"
    table = api.kubectl("-n", "graf-system", "get", "redundancygroups")
    assert table.splitlines()[0].split() == ["NAME", "ACTIVE", "EPOCH", "READY", "LAG", "RTO", "AGE"]
    assert table.splitlines()[1].split()[:4] == ["vcu-db", "east", "1", "2/2"]
    predicted = group_status(api)["predictedRto"]
    assert predicted["basis"].endswith("+ 4000 ms until users follow, by route at west")
    assert predicted["ms"] > 4000


def _tells_of_the_drivers(api: Api) -> None:
    cluster = KubeGroupApi(api.kubeconfig, "the management cluster")

    def told() -> dict[tuple[str, str], Row]:
        found = rows(cluster.driver_classes(), cluster.sites(), cluster.groups())
        return {(row.driver_class, row.site): row for row in found}

    wait_for("the driver at both sites", lambda: {("network", "east"), ("network", "west")} <= set(told()))
    east, west = told()["network", "east"], told()["network", "west"]
    assert (east.health, east.says, east.version, east.capabilities) == (
        "Ready",
        "network.graf.dev",
        "1.2.3",
        ("GATE",),
    )
    assert east.used_by == ("vcu-db/route",)
    assert (west.health, west.reason) == ("NotReady", "ImageMissing")


def _refuses_a_bad_commit(api: Api, git: Git) -> None:
    policy = (git.tree / "policies" / "lossless-automatic.yaml").read_text()
    forced = policy.replace("rpo: lossless", "onTimeout: ForceWithPossibleDataLoss")
    bad = git.push("Forced", {"policies/lossless-automatic.yaml": forced})

    def refused() -> bool:
        text = api.kubectl("-n", "graf-system", "get", "configmap", "graf-gitops-status", "-o", "json")
        data = json.loads(text)["data"]
        return bool(data.get("lastRefused") == bad and "spec.failover.onTimeout" in data["problems"])

    wait_for("the refusal in graf-gitops-status", refused)
    rpo = "jsonpath={.spec.failover.rpo}"
    assert api.kubectl("-n", "graf-system", "get", "rp", "lossless-automatic", "-o", rpo) == "lossless"
    wait_for("the Event", lambda: "CommitRefused" in api.kubectl("-n", "graf-system", "get", "events"))
    git.push("Back", {"policies/lossless-automatic.yaml": policy})


def _switches_over(api: Api, git: Git, sites: dict[str, Site]) -> None:
    east, west = sites["east"], sites["west"]
    document = {
        "apiVersion": "graf.dev/v1alpha1",
        "kind": "RedundancyOperation",
        "metadata": {"name": "there", "namespace": "graf-system"},
        "spec": {"type": "Switchover", "groupRef": {"name": "vcu-db"}, "target": "west", "reason": "test"},
    }
    api.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    command = wait_for("the command at the active site", lambda: east.commands and east.commands[-1])
    assert (command.operation, command.target) == ("there", "west")
    assert not west.commands
    update = pb.OperationUpdate(operation="there", group="vcu-db", state="Running", step="Drain", wall_ms=1)
    east.send(pb.SiteMessage(operation=update))
    east.stand_by(2)
    west.members = east.members = ["west"]  # east is not ready to go back yet
    west.activate(2)
    west.record(
        id="00000000000002-west-b",
        type="Switchover",
        epoch=2,
        epoch_from=1,
        from_site="east",
        to_site="west",
        operation="there",
        phases_ms={"campaign": 10.0, "activate": 20.0},
    )

    def ended() -> Any:
        status = json.loads(api.kubectl("-n", "graf-system", "get", "rop", "there", "-o", "json"))["status"]
        return status if status["state"] == "Succeeded" and status["gitCommit"] else None

    status = wait_for("the operation to succeed and be in Git", ended)
    assert (status["epochFrom"], status["epochTo"], status["rtoMs"]) == (1, 2, 30.0)
    wait_for("the site's record to be acknowledged", lambda: "00000000000002-west-b" in west.acks)
    assert "Graf-Operation: there" in git.log()
    assert group_status(api)["activeSite"] == "west"


def _goes_back_by_itself(api: Api, sites: dict[str, Site]) -> None:
    east, west = sites["east"], sites["west"]
    assert not west.commands
    east.members = west.members = ["east", "west"]
    command = wait_for("the failback command at the active site", lambda: west.commands and west.commands[-1])
    assert (command.operation, command.type, command.target) == ("failback-vcu-db-e2-1", "Failback", "east")


def test_a_manager_that_is_killed_is_followed_by_another_one_with_the_same_record(
    api: Api, git: Git, authority: Authority, start_manager: Any, tmp_path: Path
) -> None:
    git.push("Start", {})
    first: Manager = start_manager("alpha")
    wait_for("the first to lead", lambda: '"serving"' in first.log.read_text(), 40)
    second: Manager = start_manager("beta")
    wait_for("the second to start", lambda: '"started"' in second.log.read_text(), 40)
    assert '"serving"' not in second.log.read_text()
    first.process.kill()
    wait_for("the second to lead", lambda: '"serving"' in second.log.read_text(), 40)


def test_the_api_server_itself_refuses_what_the_rules_forbid(api: Api, git: Git) -> None:
    def apply(path: str, old: str, new: str) -> str:
        text = (git.tree / path).read_text()
        assert old in text
        said: str = api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text.replace(old, new), check=False)
        return said

    policy, group = "policies/lossless-automatic.yaml", "groups/vcu-db.yaml"
    assert "at most ttlMs" in apply(policy, "profile: metro", "profile: metro\n    heartbeatMs: 200")
    assert "exactly one site must be preferred" in apply(group, "Role: spare", "Role: preferred")
    assert "the number of voters must be odd" in apply(
        group, "  components:", "      - {name: extra, kind: Witness, endpoint: 'a:1'}\n  components:"
    )
    assert "every site must be among the voters" in apply(group, "{name: west, kind: Site", "{name: wost, kind: Site")
    assert "dependsOn must name another" in apply(group, "dependsOn: [db]", "dependsOn: [nothing]")
    api.kubectl("apply", "-f", "-", stdin=(git.tree / group).read_text())
    assert "configured (server dry run)" in apply(group, "198.18.0.10:7444", "198.18.0.11:7444")
    other = "{name: w2, kind: Witness"
    assert "another list of voters needs a higher version" in apply(group, "{name: witness, kind: Witness", other)
    again = "  components:", "    readmit: [witness]\n  components:"
    assert "another list of voters needs a higher version" in apply(group, *again)
    assert "only members can be admitted anew" in apply(group, again[0], again[1].replace("witness", "north"))
    higher = (git.tree / group).read_text().replace("version: 1", "version: 2").replace("{name: witness,", "{name: w2,")
    assert "configured" in api.kubectl("apply", "-f", "-", stdin=higher)
    assert "the version of the voters never falls" in apply(group, "  components:", "  components:")
