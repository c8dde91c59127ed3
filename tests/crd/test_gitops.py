"""What a Git tree means, and why it is refused: every class of bad input names file, field, cause and fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from graf.api.recorded import Recorded
from graf.crd import gitops
from graf.crd.base import Problem
from graf.crd.compile import compile_group
from graf.crd.group import RedundancyGroup
from graf.crd.policy import RedundancyPolicy

GROUP, POLICY, SITE = "groups/vcu-db.yaml", "policies/lossless-automatic.yaml", "sites/east.yaml"
NETWORK, MYSQL, OPERATION = "driverclasses/network.yaml", "driverclasses/mysql.yaml", "operations/move.yaml"
MOVE = b"""apiVersion: graf.dev/v1alpha1
kind: RedundancyOperation
metadata: {name: move}
spec: {type: Switchover, groupRef: {name: vcu-db}, target: west}
"""


@dataclass(frozen=True)
class Bad:
    """One edit of the example and what is said about it."""

    name: str
    file: str
    old: str
    new: str
    field: str
    cause: str
    fix: str
    starts_from: bytes | None = None

    def __str__(self) -> str:
        return self.name


EDITS = [
    Bad(
        "unknown field",
        POLICY,
        "mode: Automatic\n    rpo",
        "mood: x\n    rpo",
        "spec.failover.mood",
        "unknown field",
        "known here: cooldownSeconds",
    ),
    Bad(
        "unknown value",
        POLICY,
        "profile: metro",
        "profile: lan",
        "spec.detection.profile",
        "'lan' is not allowed",
        "'metro', 'regional' or 'wan'",
    ),
    Bad(
        "wrong type",
        POLICY,
        "WindowSeconds: 5",
        "WindowSeconds: five",
        "spec.failback.stabilisationWindowSeconds",
        "'five'",
        "api.md",
    ),
    Bad(
        "text for a number",
        POLICY,
        "WindowSeconds: 5",
        "WindowSeconds: '5'",
        "spec.failback.stabilisationWindowSeconds",
        "'5'",
        "api.md",
    ),
    Bad(
        "slow heartbeat",
        POLICY,
        "profile: metro",
        "heartbeatMs: 600",
        "spec.detection.heartbeatMs",
        "600 ms * 4 is more",
        "at most 500",
    ),
    Bad(
        "short lease",
        POLICY,
        "profile: metro",
        "ttlMs: 900",
        "spec.detection.ttlMs",
        "300 ms * 4 is more",
        "at least 1200",
    ),
    Bad(
        "time-out",
        POLICY,
        "rpo: lossless",
        "timeoutSeconds: 5",
        "spec.failover.timeoutSeconds",
        "not yet supported",
        "leave it out",
    ),
    Bad(
        "force",
        POLICY,
        "rpo: lossless",
        "onTimeout: ForceWithPossibleDataLoss",
        "spec.failover.onTimeout",
        "not yet supported",
        "use Abort",
    ),
    Bad(
        "rate limit",
        POLICY,
        "rpo: lossless",
        "rateLimit: {maxPerHour: 1}",
        "spec.failover.rateLimit",
        "not yet supported",
        "leave it out",
    ),
    Bad(
        "windows",
        POLICY,
        "stabilisationWindowSeconds: 5",
        "maintenanceWindows: [{day: Mon}]",
        "spec.failback.maintenanceWindows",
        "not yet supported",
        "Manual",
    ),
    Bad(
        "traffic steps",
        POLICY,
        "stabilisationWindowSeconds: 5",
        "trafficSteps: [10]",
        "spec.failback.trafficSteps",
        "not yet supported",
        "leave it out",
    ),
    Bad(
        "concurrency",
        POLICY,
        "stabilisationWindowSeconds: 5",
        "maxConcurrent: 1",
        "spec.failback.maxConcurrent",
        "not yet supported",
        "leave it out",
    ),
    Bad(
        "divergence",
        POLICY,
        "  failback:\n",
        "  divergence: {handling: Hold}\n  failback:\n",
        "spec.divergence.handling",
        "not yet supported",
        "ArchiveAndRebuild",
    ),
    Bad(
        "maintenance",
        SITE,
        "  endpoints:",
        "  maintenance: true\n  endpoints:",
        "spec.maintenance",
        "not yet supported",
        "RedundancyOperation",
    ),
    Bad(
        "drain",
        SITE,
        "  endpoints:",
        "  drain: true\n  endpoints:",
        "spec.drain",
        "not yet supported",
        "RedundancyOperation",
    ),
    Bad(
        "agent",
        SITE,
        "  endpoints:",
        "  gitopsAgent: Flux\n  endpoints:",
        "spec.gitopsAgent",
        "not yet supported",
        "BuiltIn",
    ),
    Bad(
        "endpoint",
        SITE,
        "198.18.0.20:7443",
        "198.18.0.20",
        "spec.endpoints.controller",
        "does not match",
        "in that form",
    ),
    Bad(
        "namespace of a cluster-scoped kind",
        SITE,
        "  name: east",
        "  name: east\n  namespace: x",
        "metadata.namespace",
        "cluster-scoped",
        "leave it out",
    ),
    Bad(
        "other namespace",
        POLICY,
        "namespace: graf-system",
        "namespace: default",
        "metadata.namespace",
        "default is not read",
        "graf-system",
    ),
    Bad("status", SITE, "spec:", "status: {}\nspec:", "status", "written by the manager", "remove it"),
    Bad(
        "missing field",
        SITE,
        "  endpoints:\n    controller: 198.18.0.20:7443",
        "",
        "spec.endpoints",
        "is required",
        "Addresses of the site",
    ),
    Bad("name", SITE, "name: east", "name: East_1", "metadata.name", "does not match", "in that form"),
    Bad(
        "missing policy",
        GROUP,
        "name: lossless-automatic",
        "name: nothing",
        "spec.policyRef.name",
        "no RedundancyPolicy nothing",
        "one of lossless-automatic",
    ),
    Bad(
        "missing driver class",
        GROUP,
        "driverClass: mysql",
        "driverClass: mongo",
        "spec.components[0].driverClass",
        "no DriverClass mongo",
        "one of mysql, network",
    ),
    Bad(
        "two preferred",
        GROUP,
        "Role: spare",
        "Role: preferred",
        "spec.sites",
        "exactly one site must be preferred, here 2",
        "spare at the others",
    ),
    Bad(
        "even voters",
        GROUP,
        "  components:",
        "      - {name: w2, kind: Witness, endpoint: 'a:1'}\n  components:",
        "spec.voters.members",
        "4 voters are no better than 3",
        "odd number",
    ),
    Bad(
        "two voters and Automatic",
        GROUP,
        '      - {name: witness, kind: Witness, endpoint: "198.18.0.10:7444"}\n',
        "",
        "spec.voters.members",
        "2 voters cannot fail over",
        "a witness",
    ),
    Bad(
        "site without vote",
        GROUP,
        "{name: west, kind: Site",
        "{name: wost, kind: Site",
        "spec.voters.members",
        "the site west is not among the voters",
        "name: west, kind: Site",
    ),
    Bad(
        "dependency",
        GROUP,
        "dependsOn: [db]",
        "dependsOn: [dbx]",
        "spec.components[1].dependsOn",
        "dbx is not another component",
        "one of db",
    ),
    Bad(
        "dependency on later stage",
        GROUP,
        "stage: data\n",
        "stage: data\n      dependsOn: [route]\n",
        "spec.components[0].dependsOn",
        "later stage traffic",
        "that stage or a later one",
    ),
    Bad(
        "parameters of a stranger",
        GROUP,
        "        west:\n          localAddress",
        "        north:\n          localAddress",
        "spec.components[1].siteParameters.north",
        "not a site",
        "east, west",
    ),
    Bad(
        "time to rest that differs",
        GROUP,
        "serverId: 20",
        "serverId: 20\n          quiesceSeconds: 20",
        "spec.components[0].siteParameters",
        "quiesceSeconds differs: 20 at east, 2 at west",
        "in components[0].parameters",
    ),
    Bad(
        "parameter missing",
        GROUP,
        "        serviceAddress: 198.19.255.1/32\n",
        "",
        "spec.components[1].siteParameters.west.serviceAddress",
        "is required",
        "add it",
    ),
    Bad(
        "parameter type",
        GROUP,
        "localAs: 65010",
        "localAs: '65010'",
        "spec.components[1].siteParameters.east.localAs",
        "not of type integer",
        "an integer",
    ),
    Bad(
        "parameter unknown",
        GROUP,
        "localAs: 65010",
        "localAs: 65010\n        colour: red",
        "spec.components[1].siteParameters.east.colour",
        "not a parameter of this driver",
        "use one of",
    ),
    Bad(
        "parameter range",
        GROUP,
        "serverId: 20",
        "serverId: 0",
        "spec.components[0].siteParameters.east.serverId",
        "less than 1",
        "at least 1",
    ),
    Bad(
        "peers",
        GROUP,
        "  components:",
        "  peers: [{name: vdu}]\n  components:",
        "spec.peers",
        "not yet supported",
        "leave it out",
    ),
    Bad(
        "stage peers",
        GROUP,
        "stage: traffic",
        "stage: peers",
        "spec.components[1].stage",
        "not yet supported",
        "data, workload or traffic",
    ),
    Bad(
        "gate over TLS",
        NETWORK,
        "kind: UnixSocket",
        "kind: TLS",
        "spec.endpoint.kind",
        "a GATE counts the lease on the controller's machine",
        "UnixSocket",
    ),
    Bad(
        "no container",
        NETWORK,
        "      containers:",
        "      initContainers:",
        "spec.template.spec.containers",
        "at least one container",
        "name and image",
    ),
    Bad(
        "schema keyword",
        NETWORK,
        "      bfd: {type: boolean}",
        "      bfd: {type: boolean, oneOf: []}",
        "spec.parametersSchema.properties.bfd.oneOf",
        "not supported",
        "use only",
    ),
    Bad(
        "selector",
        NETWORK,
        "  endpoint:",
        "  siteSelector: {matchLabels: {topology.graf.dev/region: east}}\n  endpoint:",
        "spec.components[1].driverClass",
        "leaves out the site west",
        "label the Site",
    ),
    Bad("unknown kind", SITE, "kind: Site", "kind: Cluster", "kind", "'Cluster' is unknown", "use one of"),
    Bad(
        "other API version",
        SITE,
        "graf.dev/v1alpha1",
        "graf.dev/v2",
        "apiVersion",
        "'graf.dev/v2' is unknown",
        "use graf.dev/v1alpha1",
    ),
    Bad(
        "failover by hand",
        OPERATION,
        "Switchover",
        "Failover",
        "spec.type",
        "Failover is not yet supported",
        "Switchover or Failback",
        MOVE,
    ),
    Bad(
        "drill",
        OPERATION,
        "Switchover",
        "Drill",
        "spec.type",
        "Drill is not yet supported",
        "Switchover or Failback",
        MOVE,
    ),
    Bad(
        "no target", OPERATION, ", target: west", "", "spec.target", "required for a Switchover", "name the site", MOVE
    ),
    Bad(
        "foreign target",
        OPERATION,
        "target: west",
        "target: north",
        "spec.target",
        "north is not a site of vcu-db",
        "east, west",
        MOVE,
    ),
    Bad(
        "unknown group",
        OPERATION,
        "name: vcu-db",
        "name: other",
        "spec.groupRef.name",
        "no RedundancyGroup other",
        "vcu-db",
        MOVE,
    ),
    Bad(
        "time without zone",
        OPERATION,
        "target: west",
        "target: west, notAfter: 2026-01-01T00:00:00",
        "spec.notAfter",
        "not a date and time with a zone",
        "RFC 3339",
        MOVE,
    ),
]


def test_the_example_repository_has_no_problem(tree: dict[str, bytes]) -> None:
    assert gitops.load(tree).problems == ()


@pytest.mark.parametrize("bad", EDITS, ids=str)
def test_a_bad_object_is_refused_with_file_field_cause_and_fix(tree: dict[str, bytes], bad: Bad) -> None:
    text = (bad.starts_from or tree.get(bad.file, b"")).decode()
    assert bad.old in text, "the edit no longer fits the example"
    tree[bad.file] = text.replace(bad.old, bad.new, 1).encode()
    expected_file = GROUP if bad.name == "selector" else bad.file
    found = [p for p in gitops.load(tree).problems if p.field == bad.field]
    assert found, [str(p) for p in gitops.load(tree).problems]
    assert found[0].file == expected_file
    assert bad.cause in found[0].cause
    assert bad.fix in found[0].fix


@pytest.mark.parametrize(
    ("path", "content", "field", "cause"),
    [
        ("sites/x.yaml", b"a: [1\nb: 2", "line 2", "not valid YAML"),
        ("sites/x.yaml", b"kind: Site\nkind: Site\n", "line 2", "the key kind is given twice"),
        ("sites/x.yaml", b"\xff\xfe", "", "is not UTF-8"),
        ("sites/x.yaml", b"- 1\n", "", "is not an object"),
        ("sites/x.yaml", b"!!python/object:os.system {}", "line 1", "not valid YAML"),
        ("more/x.yaml", b"a: 1", "", "outside of the layout"),
        ("x.yaml", b"a: 1", "", "outside of the layout"),
        ("operations/x.yaml", MOVE + b"---\n" + MOVE, "metadata.name", "is in operations/x.yaml too"),
        ("policies/x.yaml", MOVE, "kind", "does not belong here"),
        ("records/vcu-db.yaml", b"group: vcu-db\n", "activeSite", "is required"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    tree: dict[str, bytes], path: str, content: bytes, field: str, cause: str
) -> None:
    tree[path] = content
    problems = [p for p in gitops.load(tree).problems if p.file == path]
    assert any(p.field.startswith(field) and cause in p.cause and p.fix for p in problems), problems


def test_an_unreadable_policy_does_not_make_its_groups_look_wrong(tree: dict[str, bytes]) -> None:
    tree[POLICY] = b"a: ["
    assert [p.file for p in gitops.load(tree).problems] == [POLICY]


WITNESS = b'- {name: witness, kind: Witness, endpoint: "198.18.0.10:7444"}'
W2 = b'- {name: w2, kind: Witness, endpoint: "198.18.0.11:7444"}'


def test_a_group_whose_time_to_rest_differs_is_still_a_group_with_its_records(tree: dict[str, bytes]) -> None:
    """A manager before this rule has accepted it."""
    tree = decided(tree, 3, "west")
    tree[GROUP] = tree[GROUP].replace(b"serverId: 20", b"serverId: 20\n          quiesceSeconds: 20", 1)
    repository = gitops.load(tree)
    assert ("RedundancyGroup", "vcu-db") in repository.resources()
    assert repository.records["vcu-db"].epoch == 3
    assert "spec.components[0].siteParameters" in {problem.field for problem in repository.problems}, "it is told"


def changed_voters(tree: dict[str, bytes], *changes: tuple[bytes, bytes]) -> list[Problem]:
    """What is said against a commit that replaces these words in the group's file."""
    old = gitops.load(tree).resources()
    content = tree[GROUP]
    for before, after in changes:
        assert before in content, before
        content = content.replace(before, after)
    new = gitops.load({**tree, GROUP: content})
    return [*new.problems, *gitops.change_problems(new, old)]


def test_another_list_of_voters_with_a_higher_version_is_taken(tree: dict[str, bytes]) -> None:
    assert changed_voters(tree, (WITNESS, W2), (b"version: 1", b"version: 2")) == []
    five = WITNESS + b"\n      " + W2 + b"\n      " + W2.replace(b"w2", b"w3")
    assert changed_voters(tree, (WITNESS, five), (b"version: 1", b"version: 7")) == []


def test_another_list_under_the_same_version_is_refused(tree: dict[str, bytes]) -> None:
    (problem,) = changed_voters(tree, (WITNESS, W2))
    assert (problem.file, problem.field) == (GROUP, "spec.voters.version")
    assert "a version names one list for ever" in problem.cause
    assert "version: 2 or higher" in problem.fix


def test_a_revert_of_a_change_of_voters_is_refused_and_says_how_to_go_back(tree: dict[str, bytes]) -> None:
    reverted = dict(tree)
    tree[GROUP] = tree[GROUP].replace(WITNESS, W2).replace(b"version: 1", b"version: 2")
    new = gitops.load(reverted)
    (problem,) = gitops.change_problems(new, gitops.load(tree).resources())
    assert (problem.file, problem.field) == (GROUP, "spec.voters.version")
    assert "1 is lower than the declared version 2" in problem.cause
    assert problem.fix == "declare the list that you want again, with version: 3 or higher"


def test_where_a_voter_is_may_change_without_another_version_and_so_may_their_order(tree: dict[str, bytes]) -> None:
    assert changed_voters(tree, (b"198.18.0.10:7444", b"198.18.0.11:7444")) == []
    east = re.search(rb"- \{name: east, kind: Site.*\}", tree[GROUP])
    assert east is not None
    assert changed_voters(tree, (east[0], WITNESS + b"#"), (WITNESS + b"\n", east[0] + b"\n")) == []


def test_a_voter_that_lost_its_disk_is_admitted_anew_only_with_a_higher_version(tree: dict[str, bytes]) -> None:
    again = (WITNESS, WITNESS + b"\n    readmit: [witness]")
    (problem,) = changed_voters(tree, again)
    assert problem.field == "spec.voters.version"
    assert changed_voters(tree, again, (b"version: 1", b"version: 2")) == []


def test_not_so_many_are_admitted_anew_that_the_list_before_cannot_decide_it(tree: dict[str, bytes]) -> None:
    both = (WITNESS, WITNESS + b"\n    readmit: [witness, west]")
    (problem,) = changed_voters(tree, both, (b"version: 1", b"version: 2"))
    assert (problem.field, problem.fix) == ("spec.voters.readmit", "admit at most 1 anew with one version")


def test_only_members_are_admitted_anew_and_once(tree: dict[str, bytes]) -> None:
    for names in (b"north", b"witness, witness"):
        content = tree[GROUP].replace(WITNESS, WITNESS + b"\n    readmit: [" + names + b"]")
        (problem,) = gitops.load({**tree, GROUP: content}).problems
        assert problem.field.startswith("spec.voters.readmit")


def test_the_sites_of_a_group_cannot_change(tree: dict[str, bytes]) -> None:
    old = gitops.load(tree).resources()
    for before, after in ((b"west", b"north"), (b"West", b"North")):
        tree = {path.replace("west", "north"): data.replace(before, after) for path, data in tree.items()}
    problems = gitops.change_problems(gitops.load(tree), old)
    assert "spec.sites" in [problem.field for problem in problems]


def test_an_operation_cannot_be_changed_after_it_was_asked_for(tree: dict[str, bytes]) -> None:
    tree[OPERATION] = MOVE
    old = gitops.load(tree).resources()
    tree[OPERATION] = MOVE.replace(b"west", b"east")
    (problem,) = gitops.change_problems(gitops.load(tree), old)
    assert (problem.file, problem.field) == (OPERATION, "spec")


def test_an_object_that_is_missing_is_named_and_nothing_more(tree: dict[str, bytes]) -> None:
    old = gitops.load(tree).resources()
    del tree[GROUP]
    assert gitops.removed(gitops.load(tree), old) == [("RedundancyGroup", "vcu-db")]


def decided(tree: dict[str, bytes], epoch: int, active: str) -> dict[str, bytes]:
    resources = gitops.load(tree).resources()
    group, policy = resources["RedundancyGroup", "vcu-db"], resources["RedundancyPolicy", "lossless-automatic"]
    assert isinstance(group, RedundancyGroup)
    assert isinstance(policy, RedundancyPolicy)
    record = gitops.DecisionRecord(
        group="vcu-db", active_site=active, epoch=epoch, type="Failover", record="1", roles={"east": "Invalidated"}
    )
    compiled = compile_group(group, policy, Recorded(active, epoch, {"east": "Invalidated"}), {}, {})
    return {**tree, **gitops.decision_files(compiled.values(), record)}


def test_what_the_manager_writes_is_read_back_the_same(tree: dict[str, bytes]) -> None:
    repository = gitops.load(decided(tree, 4, "west"))
    assert repository.problems == ()
    assert repository.records["vcu-db"].recorded() == Recorded("west", 4, {"east": "Invalidated"})
    assert repository.assignments["east", "vcu-db"].spec.role == "Invalidated"
    assert repository.assignments["west", "vcu-db"].spec.role == "Active"


def test_a_revert_of_a_decision_is_refused_because_only_the_lease_moves_a_group(tree: dict[str, bytes]) -> None:
    new, old = gitops.load(decided(tree, 3, "east")), gitops.load(decided(tree, 4, "west"))
    problems = gitops.revert_problems(new, old)
    assert {p.file for p in problems} == {
        "records/vcu-db.yaml",
        "clusters/east/vcu-db.yaml",
        "clusters/west/vcu-db.yaml",
    }
    assert all("RedundancyOperation" in p.fix for p in problems)
    assert gitops.revert_problems(old, new) == []
