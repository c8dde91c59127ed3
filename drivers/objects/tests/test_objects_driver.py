"""The driver at two sites with real API servers."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from graf_driver_objects.testing import Pair, free_ports
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.testing_kubernetes import kubectl
from graf_driver_sdk.types import Health, Peer, ResyncStrategy, Role, Status, Verdict


def in_step(status: Status) -> bool:
    return status.promotable and 0 <= status.lag_seconds < 3 and status.lag_transactions == 0


async def follow(pair: Pair, epoch: int = 1) -> None:
    """East is the active, west follows and is in step."""
    await pair.role("east", Role.ACTIVE, epoch)
    await pair.role("west", Role.STANDBY, epoch)
    await pair.until_status("west", "west to be in step", in_step)


async def synced(pair: Pair) -> None:
    """Everything that is at east now has been applied at west."""
    position = await pair.clients["east"].quiesce(pair.spec("east"), 1)
    assert position.progress.completed, position.progress.message
    reached = await pair.clients["west"].await_position(pair.spec("west"), position.position, 30_000)
    assert reached.reached, reached.message
    await pair.clients["east"].unquiesce(pair.spec("east"), 1)


async def test_chosen_objects_follow_changes_and_deletions_and_others_do_not(pair: Pair) -> None:
    east, west, namespace = pair.east, pair.west, pair.namespace
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sim", "namespace": namespace, "labels": {"app": "upf"}},
        "data": {"k": base64.b64encode(b"opc-value-4711").decode()},
    }
    metadata = {"name": "s1", "namespace": namespace}
    slice_ = {"apiVersion": "test.graf.dev/v1", "kind": "Slice", "metadata": metadata, "spec": {"dnn": "internet"}}
    other = pair.config("other", a="1")
    other["metadata"]["labels"] = {"app": "amf"}
    east.put(pair.config("n3", mtu="1450", gone="soon"), pair.config("n4", peer="smf"), secret, slice_, other)
    await follow(pair)
    assert west.data("n3", namespace) == {"mtu": "1450", "gone": "soon"}
    assert (west.get("secret", "sim", namespace) or {})["data"] == secret["data"]
    assert (west.get("slice", "s1", namespace) or {})["spec"] == {"dnn": "internet", "sessions": 100}
    assert west.data("other", namespace) is None
    east.put(pair.config("n3", mtu="9000"))
    east.kubectl("delete", "configmap", "n4", "-n", namespace)
    await pair.until("the change to arrive", lambda: west.data("n3", namespace) == {"mtu": "9000"})
    await pair.until("the deletion to arrive", lambda: west.data("n4", namespace) is None)
    status = await pair.until_status("west", "in step", in_step)
    assert "opc-value-4711" not in repr(status)
    assert base64.b64encode(b"opc-value-4711").decode() not in repr(status)
    follower = (await pair.status("east")).followers[0]
    assert (follower.site, follower.connected) == ("west", True)


async def test_what_was_changed_at_the_standby_is_reported_and_kept_until_forced(pair: Pair) -> None:
    east, west, namespace = pair.east, pair.west, pair.namespace
    east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    west.put(pair.config("n3", mtu="1400"))
    east.put(pair.config("n3", mtu="9000"), pair.config("n6", a="1"))
    status = await pair.until_status("west", "a conflict", lambda status: status.facts["conflicts"])
    assert "ConfigMap" in status.facts["conflicts"]
    assert ".data.mtu" in status.facts["conflicts"]
    assert "kubectl" in status.facts["conflicts"]
    await pair.until("the other object to arrive", lambda: west.data("n6", namespace) == {"a": "1"})
    assert west.data("n3", namespace) == {"mtu": "1400"}
    position = (await pair.clients["east"].quiesce(pair.spec("east"), 1)).position
    reached = await pair.clients["west"].await_position(pair.spec("west"), position, 2000)
    assert not reached.reached
    assert "conflict" in reached.message
    await pair.clients["east"].unquiesce(pair.spec("east"), 1)
    pair.parameters["west"]["conflicts"] = "force"
    await pair.role("west", Role.STANDBY, 1)
    await pair.until("the active's object", lambda: west.data("n3", namespace) == {"mtu": "9000"})
    archived = [path.read_text() for path in pair.state("west").rglob("archive/*/*.yaml")]
    assert any("mtu: '1400'" in text for text in archived)


async def test_a_diverged_site_does_not_follow_and_keeps_what_it_has(pair: Pair) -> None:
    pair.west.put(pair.config("n3", mine="yes"))
    pair.east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await pair.role("east", Role.ACTIVE, 1)
    await pair.until_status("east", "a generation", lambda status: status.position)
    with pytest.raises(DriverCallError, match="never the same at both sites") as refused:
        await pair.role("west", Role.STANDBY, 1)
    assert refused.value.reason == "needs-resync"
    status = await pair.status("west")
    assert status.role is Role.FENCED
    assert not status.promotable
    assert pair.west.data("n3", pair.namespace) == {"mine": "yes"}
    assert pair.west.data("n4", pair.namespace) is None, "it was compared, not applied in part"


async def test_a_site_that_diverged_while_the_active_was_silent_is_found_out_at_the_first_answer(pair: Pair) -> None:
    pair.west.put(pair.config("n3", mine="yes"))
    pair.east.put(pair.config("n3", mtu="1450"))
    await pair.role("west", Role.STANDBY, 1)
    assert (await pair.status("west")).role is Role.STANDBY
    await pair.role("east", Role.ACTIVE, 1)
    status = await pair.until_status("west", "the divergence", lambda status: status.role is Role.FENCED)
    assert "diverged from east" in status.message
    assert pair.west.data("n3", pair.namespace) == {"mine": "yes"}


async def test_a_conflict_that_was_told_while_it_followed_survives_a_restart_of_the_driver(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    pair.west.put(pair.config("n3", mtu="1400"))
    pair.east.put(pair.config("n3", mtu="9000"))
    await pair.until_status("west", "a conflict", lambda status: status.facts.get("waiting"))
    await pair.stop("west")
    await pair.start("west")
    await pair.role("west", Role.STANDBY, 1)
    await pair.until_status("west", "the conflict again", lambda status: status.facts.get("conflicts"))
    assert pair.west.data("n3", pair.namespace) == {"mtu": "1400"}


async def test_a_shell_without_content_is_filled(pair: Pair) -> None:
    """Whose account may create no Secret: an administrator makes it, empty, and the driver fills it."""
    shell = {**pair.config("sim"), "kind": "Secret"}
    pair.west.put(shell)
    pair.east.put({**shell, "data": {"k": base64.b64encode(b"opc").decode()}})
    await follow(pair)
    assert (pair.west.get("secret", "sim", pair.namespace) or {})["data"] == {"k": base64.b64encode(b"opc").decode()}


async def test_a_hanging_api_server_of_the_active_shows_within_seconds(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    pair.east.away(9.0)
    status = await pair.until_status("east", "the silence", lambda status: status.health is Health.UNKNOWN, 6.0)
    assert "asking the API server whether it is ready" in status.message
    await pair.role("west", Role.INVALIDATED, 1)
    assessment = await pair.clients["west"].assess(pair.spec("west"), pair.peer("east", Role.ACTIVE))
    assert assessment.verdict is Verdict.UNKNOWN, "what the active has cannot be told while its API server is silent"
    await pair.until_status("east", "it to be back", lambda status: status.health is Health.HEALTHY)


async def test_a_deposed_active_is_refused_after_a_restart_too(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair, 3)
    await pair.role("west", Role.STANDBY, 5)  # epoch 5 was won by somebody; east at 3 does not know
    pair.east.put(pair.config("n3", mtu="9000"))
    refused = await pair.until_status("west", "a refusal", lambda status: "is over" in status.message)
    assert pair.west.data("n3", pair.namespace) == {"mtu": "1450"}
    assert refused.lag_seconds < 0, "nothing of this active was ever applied in this epoch"
    await pair.stop("west")
    await pair.start("west")
    assert (await pair.status("west")).role is Role.FENCED
    assert pair.west.data("n3", pair.namespace) == {"mtu": "1450"}
    with pytest.raises(DriverCallError, match="epoch"):
        await pair.role("west", Role.STANDBY, 4)
    assessment = await pair.clients["west"].assess(pair.spec("west"), pair.peer("east", Role.ACTIVE))
    assert assessment.verdict is Verdict.UNKNOWN
    await pair.role("east", Role.ACTIVE, 6)
    await pair.role("west", Role.STANDBY, 6)
    await pair.until("the change", lambda: pair.west.data("n3", pair.namespace) == {"mtu": "9000"})


async def test_a_handover_by_position_and_the_way_back_keep_what_each_active_wrote(pair: Pair) -> None:
    east, west, namespace = pair.east, pair.west, pair.namespace
    east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await follow(pair)
    east.put(pair.config("n3", mtu="1500"))
    quiesced = await pair.clients["east"].quiesce(pair.spec("east"), 1)
    again = await pair.clients["east"].quiesce(pair.spec("east"), 1)
    assert quiesced.progress.completed
    assert quiesced.position == again.position
    reached = await pair.clients["west"].await_position(pair.spec("west"), quiesced.position, 30_000)
    assert reached.reached, reached.message
    await pair.until_status("east", "east to know", lambda status: status.followers[0].acknowledging)
    await pair.role("east", Role.FENCED, 1)
    await pair.role("west", Role.ACTIVE, 2)
    west.put(pair.config("n3", mtu="9000"), pair.config("new", b="2"))
    west.kubectl("delete", "configmap", "n4", "-n", namespace)
    await pair.until_status("west", "its deletion", lambda status: status.facts["tombstones"] == "1")
    active = pair.peer("west", Role.ACTIVE)
    assert (await pair.clients["east"].assess(pair.spec("east"), active)).verdict is Verdict.BEHIND
    await pair.role("east", Role.STANDBY, 2)
    await pair.until_status("east", "east to be in step", in_step)
    assert east.data("n3", namespace) == {"mtu": "9000"}
    assert east.data("new", namespace) == {"b": "2"}
    assert east.data("n4", namespace) is None
    assert (await pair.clients["east"].assess(pair.spec("east"), active)).verdict is Verdict.CLEAN


async def test_a_returning_site_that_diverged_archives_and_is_rebuilt(pair: Pair) -> None:
    east, west, namespace = pair.east, pair.west, pair.namespace
    east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    await synced(pair)
    await pair.role("west", Role.FENCED, 1)  # east goes on alone, and what it writes never leaves it
    east.put(pair.config("n3", mtu="666"), pair.config("lonely", a="1"))
    await pair.role("west", Role.ACTIVE, 2)
    west.put(pair.config("n3", mtu="9000"))
    await pair.until_status("west", "its generation", lambda status: status.facts["objects"] == "1")
    await pair.role("east", Role.INVALIDATED, 2)
    active, client = pair.peer("west", Role.ACTIVE), pair.clients["east"]

    assessment = await client.assess(pair.spec("east"), active)
    assert assessment.verdict is Verdict.DIVERGED
    assert f"{namespace}/n3" in assessment.divergent
    assert f"{namespace}/lonely: only here" in assessment.divergent
    with pytest.raises(DriverCallError, match="REBUILD"):
        await client.resync(pair.spec("east"), active, ResyncStrategy.FOLLOW, 2)
    resynced = await client.resync(pair.spec("east"), active, ResyncStrategy.REBUILD, 2)
    assert resynced.progress.completed, resynced.progress.message
    archived = "".join(path.read_text() for path in pair.state("east").rglob("archive/*/*.yaml"))
    assert "mtu: '666'" in archived
    assert "name: lonely" in archived
    await pair.until("the active's object", lambda: east.data("n3", namespace) == {"mtu": "9000"})
    assert east.data("lonely", namespace) == {"a": "1"}, "what the active never had is archived, not deleted"
    assert (await client.assess(pair.spec("east"), active)).verdict is Verdict.CLEAN
    await pair.role("east", Role.STANDBY, 2)
    await pair.until_status("east", "east to be in step", in_step)


async def test_an_empty_site_is_told_so_and_a_silent_active_is_unknown(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await pair.role("east", Role.ACTIVE, 1)
    await pair.until_status("east", "a generation", lambda status: status.position)
    active = pair.peer("east", Role.ACTIVE)
    assert (await pair.clients["west"].assess(pair.spec("west"), active)).verdict is Verdict.EMPTY
    silent = Peer("east", Role.ACTIVE, pair.parameters["east"] | {"endpoint": f"127.0.0.1:{free_ports(1)[0]}"})
    assessment = await pair.clients["west"].assess(pair.spec("west"), silent)
    assert assessment.verdict is Verdict.UNKNOWN
    assert "gives no answer" in assessment.message


async def test_what_may_be_missing_is_told_as_an_upper_bound_and_limits_a_promotion(pair: Pair) -> None:
    pair.parameters["west"]["rpoSeconds"] = 3
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    status = await pair.status("west")
    assert 0 < status.lag_seconds < 3, "also in step it is told since when nothing was heard"
    began = asyncio.get_running_loop().time()
    await pair.stop("east")  # it can tell nobody any more what is written there
    late = await pair.until_status("west", "the limit", lambda status: not status.promotable, 8.0)
    assert late.lag_seconds >= 3
    assert "more than rpoSeconds 3" in late.promotable_reason
    assert asyncio.get_running_loop().time() - began > 1


async def test_the_lag_grows_while_the_actives_api_server_is_silent(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    pair.east.away(10.0)
    status = await pair.until_status("west", "the lag", lambda status: status.lag_seconds > 5, 12.0)
    assert float(status.facts["active_watch_stale_s"]) > 0
    await pair.until_status("west", "it to be in step again", in_step)


async def test_what_was_written_a_moment_ago_counts_in_a_verdict_and_in_a_resync(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    await synced(pair)
    await pair.role("west", Role.INVALIDATED, 1)
    active, client = pair.peer("east", Role.ACTIVE), pair.clients["west"]
    for number in range(3):
        pair.east.put(pair.config("n3", mtu=str(number)))
        assert (await client.assess(pair.spec("west"), active)).verdict is Verdict.BEHIND
        assert (await client.resync(pair.spec("west"), active, ResyncStrategy.FOLLOW, 1)).progress.completed
        assert pair.west.data("n3", pair.namespace) == {"mtu": str(number)}


async def test_a_wiped_site_is_empty_whatever_its_ledger_remembers(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"), pair.config("n4", a="1"))
    await follow(pair)
    await synced(pair)
    await pair.role("west", Role.INVALIDATED, 1)
    pair.west.kubectl("delete", "configmap", "-l", "app=upf", "-n", pair.namespace)
    active, client = pair.peer("east", Role.ACTIVE), pair.clients["west"]
    assert (await client.assess(pair.spec("west"), active)).verdict is Verdict.EMPTY
    assert (await client.resync(pair.spec("west"), active, ResyncStrategy.REBUILD, 1)).progress.completed
    assert pair.west.data("n3", pair.namespace) == {"mtu": "1450"}
    assert (await client.assess(pair.spec("west"), active)).verdict is Verdict.CLEAN


async def test_only_the_peers_of_the_group_may_ask(pair: Pair) -> None:
    pair.east.put(pair.config("n3", mtu="1450"))
    await pair.role("east", Role.ACTIVE, 1)
    pair.authority.issue(pair.directory / "west" / "tls", "stranger.objects.graf.dev")
    await pair.role("west", Role.STANDBY, 1)
    await pair.until_status("west", "a refusal", lambda status: "is not of a peer" in status.message)
    pair.authority.issue(pair.directory / "west" / "tls", "west.objects.graf.dev")
    await pair.until_status("west", "the renewed certificate to be used", in_step)


async def test_a_promotion_completes_a_generation_that_was_half_applied(pair: Pair) -> None:
    from graf_driver_objects.ledger import Store
    from graf_driver_objects.model import Generation, Ref

    pair.east.put(pair.config("n3", mtu="1450"))
    await follow(pair)
    await pair.stop("west")
    # As if it was killed after it had received the next generation and before it applied it; then east is lost.
    store = Store(pair.state("west") / "objects" / "vcu_config")
    wanted = [pair.config("n3", mtu="9000"), pair.config("n6", a="1")]
    number = store.ledger.position.number + 1
    store.keep(Generation("east", 1, number, {Ref.of(manifest): manifest for manifest in wanted}))
    await pair.start("west")
    await pair.role("west", Role.ACTIVE, 2)
    assert pair.west.data("n3", pair.namespace) == {"mtu": "9000"}
    assert pair.west.data("n6", pair.namespace) == {"a": "1"}
    status = await pair.until_status("west", "its own generation", lambda status: status.position.startswith("2."))
    assert int(status.position.split(".")[1]) > number


async def test_many_deletions_at_once_are_held(pair: Pair) -> None:
    pair.east.put(*(pair.config(f"c{number}", a="1") for number in range(4)))
    for name in ("east", "west"):
        pair.parameters[name]["maxDeletions"] = 2
    await follow(pair)
    await synced(pair)
    pair.east.kubectl("delete", "configmap", "-l", "app=upf", "-n", pair.namespace)
    await pair.until_status("east", "a hold", lambda status: "vanished at once" in status.message)
    assert pair.west.data("c1", pair.namespace) == {"a": "1"}


async def test_the_receiving_site_changes_what_it_is_told_to(pair: Pair) -> None:
    target = f"{pair.namespace}-w"
    pair.west.kubectl("create", "namespace", target)
    pair.parameters["west"]["transform"] = {
        "namespaces": {pair.namespace: target},
        "patches": [{"kind": "ConfigMap", "patch": [{"op": "add", "path": "/data/site", "value": "west"}]}],
        "substitutions": [{"path": "$.data.peer", "find": "198.18.1.", "replace": "198.18.2."}],
    }
    pair.east.put(pair.config("n4", peer="198.18.1.7"))
    await follow(pair)
    assert pair.west.data("n4", target) == {"peer": "198.18.2.7", "site": "west"}
    assert pair.west.data("n4", pair.namespace) is None


async def test_validation_names_a_missing_kind_and_missing_permissions(pair: Pair) -> None:
    assert await pair.clients["east"].validate(pair.spec("east"), [pair.peer("west", Role.STANDBY)]) == ()
    objects = pair.parameters["east"]["objects"]
    pair.parameters["east"]["objects"] = [*objects, {**objects[2], "kind": "Tunnel"}]
    found = await pair.clients["east"].validate(pair.spec("east"), [])
    assert [problem.field for problem in found] == ["objects"]
    assert "CRD" in json.dumps([problem.fix for problem in found])
    pair.parameters["east"]["objects"] = objects[:1]
    pair.parameters["east"]["kubeconfig"] = str(pair.east.kubeconfig.with_name("limited"))
    (denied,) = await pair.clients["east"].validate(pair.spec("east"), [])
    assert "get, list, watch" in denied.cause


async def test_a_named_secret_follows_with_rights_that_open_no_other_one(pair: Pair) -> None:
    """As a DriverClass hands them out: by name, without create; an administrator has made the Secret, empty."""
    namespace, verbs = pair.namespace, ["get", "list", "watch", "patch", "update", "delete"]
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["sim"], "verbs": verbs}
    rbac, metadata = "rbac.authorization.k8s.io", {"name": "named", "namespace": namespace}
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "named"},
        "subjects": [{"kind": "User", "name": "limited", "apiGroup": rbac}],
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sim", "namespace": namespace}}
    for name in ("east", "west"):
        site = pair.sites[name]
        site.put(role, binding)
        selection = {"apiVersion": "v1", "kind": "Secret", "namespace": namespace, "names": ["sim"]}
        pair.parameters[name]["objects"] = [selection]
        pair.parameters[name]["kubeconfig"] = str(site.kubeconfig.with_name("limited"))
    (missing,) = await pair.clients["west"].validate(pair.spec("west"), [])
    assert f"make Secret {namespace}/sim" in missing.fix
    pair.west.put(secret, {**secret, "metadata": {"name": "other", "namespace": namespace}})
    pair.east.put({**secret, "data": {"k": base64.b64encode(b"opc").decode()}})
    assert await pair.clients["west"].validate(pair.spec("west"), []) == ()
    await follow(pair)
    assert (pair.west.get("secret", "sim", namespace) or {})["data"] == {"k": base64.b64encode(b"opc").decode()}
    limited = [str(pair.west.program), "--kubeconfig", pair.parameters["west"]["kubeconfig"]]
    for what in (["secrets"], ["secret", "other"], ["secrets", "--field-selector=metadata.name=other"]):
        with pytest.raises(AssertionError, match="Forbidden"):
            kubectl(limited, "get", *what, "-n", namespace)
