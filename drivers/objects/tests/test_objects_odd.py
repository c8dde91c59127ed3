"""Objects that are allowed and seldom: what cannot be changed, what does not go, what has the longest name."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from graf_driver_objects import backend, follower
from graf_driver_objects.cluster import Cluster
from graf_driver_objects.ledger import Store
from graf_driver_objects.model import Generation, Ref
from graf_driver_objects.testing import Pair
from graf_driver_sdk.types import Role, Status, Verdict

HELD = "example.org/hold"


def in_step(status: Status) -> bool:
    return status.promotable and 0 <= status.lag_seconds < 3 and status.lag_transactions == 0


async def follow(pair: Pair, epoch: int = 1) -> None:
    """East is the active, west follows and is in step."""
    await pair.role("east", Role.ACTIVE, epoch)
    await pair.role("west", Role.STANDBY, epoch)
    await pair.until_status("west", "west to be in step", in_step)


async def made_anew(pair: Pair, before: dict[str, Any], after: dict[str, Any]) -> None:
    """While the driver of the standby is away, so that it sees a change and no deletion."""
    pair.east.put(before)
    await follow(pair)
    await pair.stop("west")
    pair.east.kubectl("delete", before["kind"], before["metadata"]["name"], "-n", pair.namespace)
    await pair.until_status("east", "its end to be seen", lambda status: status.facts["objects"] == "0")
    pair.east.put(after)
    await pair.until_status("east", "the new one to be seen", lambda status: status.facts["objects"] == "1")
    await pair.start("west")


def held(pair: Pair, value: str) -> None:
    """Holds, or lets go, ConfigMap n3 at the standby."""
    patch = f'{{"metadata":{{"finalizers":{value}}}}}'
    pair.west.kubectl("patch", "configmap", "n3", "-n", pair.namespace, "--type=merge", "-p", patch)


async def test_an_immutable_configmap_that_was_made_anew_is_made_anew_at_the_standby(pair: Pair) -> None:
    old, new = (pair.config("n3", mtu=mtu) | {"immutable": True} for mtu in ("1450", "9000"))
    await made_anew(pair, old, new)
    await pair.role("west", Role.STANDBY, 1)
    await pair.until("the new one", lambda: pair.west.data("n3", pair.namespace) == {"mtu": "9000"})
    await pair.until_status("west", "west to be in step", in_step)
    archived = [path.read_text() for path in pair.state("west").rglob("archive/*-replaced/*.yaml")]
    assert any("mtu: '1450'" in text for text in archived)


async def test_a_secret_of_another_type_is_not_deleted_where_it_could_not_be_made_anew(pair: Pair) -> None:
    old = pair.config("sim") | {"kind": "Secret", "type": "Opaque", "data": {"k": base64.b64encode(b"one").decode()}}
    await made_anew(pair, old, old | {"type": "example.org/sim"})
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch", "patch", "update", "delete"]}]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "odd", "namespace": pair.namespace}}
    account = [{"kind": "User", "name": "limited", "apiGroup": "rbac.authorization.k8s.io"}]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "odd"}
    pair.west.put(
        role | {"kind": "Role", "rules": rules},
        role | {"kind": "RoleBinding", "subjects": account, "roleRef": reference},
    )
    own = pair.parameters["west"]["kubeconfig"]
    pair.parameters["west"]["kubeconfig"] = own.replace("kubeconfig", "limited")
    await pair.role("west", Role.STANDBY, 1)
    status = await pair.until_status("west", "the reason", lambda status: status.facts.get("conflicts"))
    assert "another type here, which nobody can change, and create is not allowed" in status.facts["conflicts"]
    assert (pair.west.get("secret", "sim", pair.namespace) or {})["type"] == "Opaque"
    pair.parameters["west"]["kubeconfig"] = own
    await pair.role("west", Role.STANDBY, 1)
    await pair.until_status("west", "west to be in step", in_step)
    assert (pair.west.get("secret", "sim", pair.namespace) or {})["type"] == "example.org/sim"


@pytest.mark.parametrize("mtu", ["1450", "9000"], ids=["same-data", "other-data"])
async def test_what_could_not_be_made_anew_is_not_deleted(pair: Pair, mtu: str) -> None:
    old, new = (pair.config("n3", mtu=value) | {"immutable": True} for value in ("1450", mtu))
    await made_anew(pair, old, new)
    spoils = {"op": "add", "path": "/metadata/labels/a", "value": "no label!"}
    pair.parameters["west"]["transform"] = {"patches": [{"name": "n3", "patch": [spoils]}]}
    before = (pair.west.get("configmap", "n3", pair.namespace) or {})["metadata"]["uid"]
    await pair.role("west", Role.STANDBY, 1)
    status = await pair.until_status("west", "the reason", lambda status: status.facts["conflicts"])
    assert "Invalid (metadata.labels" in status.facts["conflicts"]
    assert ("making it anew would fail" in status.facts["conflicts"]) is (mtu == "9000")
    assert (pair.west.get("configmap", "n3", pair.namespace) or {})["metadata"]["uid"] == before
    assert list(pair.state("west").rglob("archive/*")) == []
    del pair.parameters["west"]["transform"]
    await pair.role("west", Role.STANDBY, 1)
    await pair.until("the new one", lambda: pair.west.data("n3", pair.namespace) == {"mtu": mtu})


async def test_a_deletion_that_a_finalizer_of_the_standby_holds_is_told_as_that_and_archived_once(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await follow(pair)
    pair.parameters["west"]["conflicts"] = "force"  # which looks at it again and again, and may delete
    await pair.role("west", Role.STANDBY, 1)
    await pair.until_status("west", "west to be in step", in_step)
    held(pair, f'["{HELD}"]')
    pair.east.kubectl("delete", "configmap", "n3", "-n", pair.namespace)
    await pair.until_status("west", "the reason", lambda status: HELD in status.facts["conflicts"])
    pair.east.put(pair.config("n4", a="2"))
    await pair.until("another pass", lambda: pair.west.data("n4", pair.namespace) == {"a": "2"})
    status = await pair.until_status("west", "the reason again", lambda status: HELD in status.facts["conflicts"])
    assert "deleted at the active, and here its deletion waits for" in status.facts["conflicts"]
    assert len(list(pair.state("west").rglob("archive/*-deleted"))) == 1
    assessed = await pair.clients["west"].assess(pair.spec("west"), pair.peer("east", Role.ACTIVE))
    assert assessed.verdict is Verdict.BEHIND, assessed.message
    held(pair, "null")
    await pair.until_status("west", "west to be in step", in_step)


async def test_a_followed_object_that_is_being_deleted_here_is_made_anew_when_it_is_gone(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    held(pair, f'["{HELD}"]')
    pair.west.kubectl("delete", "configmap", "n3", "-n", pair.namespace, "--wait=false")
    pair.east.put(pair.config("n4", a="1"))
    await pair.until_status("west", "the reason", lambda status: HELD in status.facts["conflicts"])
    held(pair, "null")
    await pair.until_status("west", "west to be in step", in_step)
    assert pair.west.data("n3", pair.namespace) == {"mtu": "1450"}


async def test_an_object_that_was_not_chosen_for_a_while_is_deleted_like_any_other(pair: Pair) -> None:
    east, west, namespace = pair.east, pair.west, pair.namespace
    east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await follow(pair)
    east.kubectl("label", "configmap", "n3", "-n", namespace, "app-")
    await pair.until_status("east", "one less", lambda status: status.facts["objects"] == "1")
    assert west.data("n3", namespace) == {"mtu": "1450"}, "it is there at the active: nothing is deleted"
    east.kubectl("label", "configmap", "n3", "-n", namespace, "app=upf")
    await pair.until_status("east", "it again", lambda status: status.facts["objects"] == "2")
    east.kubectl("delete", "configmap", "n3", "-n", namespace)
    await pair.until("the deletion", lambda: west.data("n3", namespace) is None)


async def test_what_was_deleted_after_it_was_chosen_no_more_goes_with_the_hand_over(pair: Pair) -> None:
    east, west, namespace = pair.east, pair.west, pair.namespace
    east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await follow(pair)
    east.kubectl("label", "configmap", "n3", "-n", namespace, "app-")
    await pair.until_status("east", "one less", lambda status: status.facts["objects"] == "1")
    east.kubectl("delete", "configmap", "n3", "-n", namespace)
    position = (await pair.clients["east"].quiesce(pair.spec("east"), 1)).position
    reached = await pair.clients["west"].await_position(pair.spec("west"), position, 30_000)
    assert reached.reached, reached.message
    assert west.data("n3", namespace) is None


async def test_an_object_with_the_longest_name_is_archived_and_deleted(pair: Pair) -> None:
    name = "n" * 253
    pair.east.put(pair.config(name, mtu="1450"))
    await follow(pair)
    pair.east.kubectl("delete", "configmap", name, "-n", pair.namespace)
    await pair.until("the deletion", lambda: pair.west.data(name, pair.namespace) is None)
    assert any("mtu: '1450'" in path.read_text() for path in pair.state("west").rglob("archive/*/*.yaml"))


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"op": "add", "path": "/metadata/labels", "value": "x"}, "makes its labels no mapping"),
        ({"op": "replace", "path": "/data", "value": ["x"]}, "HTTP status 500 (a webhook that does not answer, or a"),
        ({"op": "add", "path": "/metadata/labels/a", "value": "no label!"}, "Invalid (metadata.labels)"),
        ({"op": "remove", "path": "/data/nothing"}, "does not fit it"),
    ],
    ids=["labels", "type", "value", "path"],
)
async def test_a_transformation_that_spoils_an_object_is_told_and_stops_no_other_one_and_no_promotion(
    pair: Pair, rule: dict[str, Any], reason: str
) -> None:
    pair.parameters["west"]["transform"] = {"patches": [{"name": "n3", "patch": [rule]}]}
    pair.east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await pair.role("east", Role.ACTIVE, 1)
    await pair.role("west", Role.STANDBY, 1)
    await pair.until("the other one", lambda: pair.west.data("n4", pair.namespace) == {"a": "1"})
    await pair.until_status("west", "the reason", lambda status: reason in status.facts["conflicts"])
    await pair.role("west", Role.ACTIVE, 2)


async def test_a_path_that_takes_the_names_away_is_told_for_each_object(pair: Pair) -> None:
    pair.parameters["west"]["transform"] = {"strip": ["$..name"]}
    pair.east.put(pair.config("n3", mtu="1450"))
    await pair.role("east", Role.ACTIVE, 1)
    await pair.role("west", Role.STANDBY, 1)
    status = await pair.until_status("west", "the reason", lambda status: status.facts["conflicts"])
    assert "correct the parameter transform" in status.facts["conflicts"]


async def test_a_namespace_that_is_missing_at_the_standby_is_named(pair: Pair) -> None:
    elsewhere = f"{pair.namespace}-here"
    pair.parameters["west"]["transform"] = {"namespaces": {pair.namespace: elsewhere}}
    pair.east.put(pair.config("n3", mtu="1450"))
    await pair.role("east", Role.ACTIVE, 1)
    await pair.role("west", Role.STANDBY, 1)
    status = await pair.until_status("west", "the reason", lambda status: status.facts["conflicts"])
    assert f"the namespace {elsewhere} is not there; create it" in status.facts["conflicts"]
    pair.west.kubectl("create", "namespace", elsewhere)
    await pair.until_status("west", "west to be in step", in_step)


async def test_the_largest_configmap_and_binary_data_arrive(pair: Pair) -> None:
    data = {f"k{number}": "x" * 100 for number in range(5000)}
    binary = pair.config("binary") | {"binaryData": {"blob": base64.b64encode(b"\x00\xff" * 380_000).decode()}}
    for document in (pair.config("big", **data), binary):
        pair.east.kubectl(
            "create", "-f", "-", stdin=json.dumps(document)
        )  # as apply, it would be annotated with all of it
    await follow(pair)
    assert pair.west.data("big", pair.namespace) == data
    assert (pair.west.get("configmap", "binary", pair.namespace) or {})["binaryData"] == binary["binaryData"]


async def test_a_promotion_ends_however_many_objects_cannot_be_applied(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it was killed after it had received a generation, of which nothing can be applied here."""
    monkeypatch.setattr(backend, "_STEP_S", 0.05)  # less than all of it takes: the next call goes on behind it
    await pair.stop("west")
    wanted = [pair.config(f"c{number}", a="1") for number in range(40)]
    store = Store(pair.state("west") / "objects" / "vcu_config")
    store.keep(Generation("east", 1, 1, {Ref.of(manifest): manifest for manifest in wanted}))
    pair.parameters["west"]["transform"] = {"namespaces": {pair.namespace: "nowhere"}}
    await pair.start("west")
    await pair.role("west", Role.ACTIVE, 2)


async def test_a_look_at_everything_again_is_done_in_slices_and_shows_nothing_that_is_not_so(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.east.put(*(pair.config(f"c{number:02}", a="1") for number in range(20)))
    await follow(pair)
    reads: list[str] = []
    read = Cluster.get

    def slow(cluster: Cluster, ref: Ref) -> Any:
        reads.append(ref.name)
        time.sleep(0.02)
        return read(cluster, ref)

    monkeypatch.setattr(Cluster, "get", slow)
    monkeypatch.setattr(follower, "_SLICE_S", 0.1)
    monkeypatch.setattr(follower, "_VERIFY_S", 0.0)
    while reads.count("c00") < 3:
        assert (await pair.status("west")).lag_transactions == 0
    pair.west.put(pair.config("c10", a="mine"))
    await pair.until_status("west", "the conflict", lambda status: "c10" in status.facts["conflicts"])
    looked = reads.count("c19")
    while reads.count("c19") < looked + 2:
        assert "c10" in (await pair.status("west")).facts["conflicts"]
