"""The numbered requirements of the contract `graf.driver.v1`: the source of the tables in the reference.

An id is never used again for something else. MUST: a driver that breaks it can lose data or serve at two sites, or
its caller cannot tell. SHOULD: there can be a reason to do otherwise, which belongs in the driver's reference page.
"""

# ruff: noqa: E501 - one requirement a line

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement.

    Attributes:
        id: GD-AREA-NNN.
        level: MUST or SHOULD.
        rpc: the RPC that it is about; "all" for each, "process" for the driver's process.
        text: the requirement.
        fix: what an author does whose driver breaks it.
    """

    id: str
    level: str
    rpc: str
    text: str
    fix: str


_TABLE: Final = """
GD-INFO-001 | MUST | GetInfo | GetInfo answers with a name (a DNS name such as mysql.graf.dev) and a version as long as the process lives. | Answer from constants; do not ask the component.
GD-INFO-002 | MUST | GetInfo | The answer is constant while the process lives. | Compute it once, at start.
GD-INFO-003 | MUST | GetInfo | contract_versions lists every version of the contract that is served, v1 among them. | Add "v1".
GD-INFO-004 | MUST | all | An RPC of a capability that is not declared is refused with UNIMPLEMENTED, and nothing is done. | Refuse before looking at the component.
GD-INFO-005 | MUST | all | Every RPC of a declared capability is served. | Implement it, or do not declare the capability.
GD-INFO-006 | MUST | Probe | Probe answers within its deadline; ready is true once calls can be served, and a message says why when it is not. | Do not do work in Probe.
GD-VALID-001 | MUST | Validate | Parameters that can be used give no problem. | Compare with what EnsureRole accepts.
GD-VALID-002 | MUST | Validate | Each problem names the field (path inside the parameters), the cause and the fix. | Fill all three.
GD-VALID-003 | MUST | Validate | All problems are reported at once. | Collect them; do not stop at the first.
GD-VALID-004 | MUST | Validate | Validate changes nothing: no role, no epoch, no data. | Parse only.
GD-VALID-005 | MUST | all | A spec whose group, component or site is no RFC 1123 label is refused with INVALID_ARGUMENT. | Check names before anything else; they become file names.
GD-VALID-006 | MUST | all | Parameters that cannot be used lead to INVALID_ARGUMENT, or the call goes on with those in force; never to another error. | Parse before acting and raise INVALID_ARGUMENT.
GD-ROLE-001 | MUST | EnsureRole | Idempotent: the same request again, any number of times, completes and changes nothing. | Compare what is observed with what is wanted before acting.
GD-ROLE-002 | MUST | EnsureRole | Every role can be reached from every role, in a newer epoch, by calling until completed. | Do not insist on an order of roles; FENCED must always be possible.
GD-ROLE-003 | MUST | EnsureRole | completed is true only when the role has been observed: GetStatus right after it shows it. | Observe, then answer.
GD-ROLE-004 | MUST | EnsureRole | Only an ACTIVE component accepts: STANDBY, FENCED and INVALIDATED complete when provably nothing is accepted any more. | Cut clients off first, wait for the proof, then answer.
GD-ROLE-005 | MUST | EnsureRole | An ACTIVE component accepts once completed, within its lease. | Open last, and answer after that.
GD-ROLE-006 | MUST | EnsureRole | A role that is UNSPECIFIED or unknown is refused with INVALID_ARGUMENT, and nothing is begun. | Check the number of the enum.
GD-ROLE-007 | MUST | EnsureRole | synchronous_set with another role than ACTIVE is refused with INVALID_ARGUMENT. | Check it with the role.
GD-ROLE-008 | MUST | EnsureRole | ACTIVE without an epoch (0) is refused with INVALID_ARGUMENT. | Check it with the role.
GD-ROLE-009 | MUST | EnsureRole | An answer that is not completed carries retry_after_ms above 0 and a message. | Say when to call again and what is waited for.
GD-ROLE-010 | MUST | EnsureRole | With SYNCHRONOUS, the status tells the set in force, and it is the one given; another set in the same epoch replaces it without leaving ACTIVE. | Read it back from the component.
GD-ROLE-011 | MUST | EnsureRole | A write that was acknowledged is never lost by a change of role or a restart on the same site. | Make it durable before it is acknowledged.
GD-ROLE-012 | MUST | EnsureRole | A client is refused while the component is not accepting. | Refuse at the component, not at the driver.
GD-ROLE-013 | MUST | EnsureRole | A newer request replaces one that was not completed: FENCED after a pending ACTIVE wins, and nothing opens later. | Keep no background work that outlives the request.
GD-EPOCH-001 | MUST | EnsureRole, RenewLease, Quiesce, Unquiesce, Resync | An epoch lower than the highest ever seen is refused with FAILED_PRECONDITION. | Compare before anything else.
GD-EPOCH-002 | MUST | all | The highest epoch survives stop, kill -9 and restart of the driver. | fsync the file and its directory before acting.
GD-EPOCH-003 | MUST | all | A refused call changes nothing. | Compare before acting.
GD-EPOCH-004 | MUST | GetStatus | Status tells the highest epoch ever seen. | Report the durable value.
GD-EPOCH-005 | MUST | all | The epoch of a mutating call is durable before its effect begins. | Write the file first.
GD-EPOCH-006 | SHOULD | all | The refusal carries graf-reason "stale-epoch" and graf-epoch-highest in its trailing metadata. | Set both.
GD-EPOCH-007 | MUST | Validate, GetStatus, WatchStatus, AwaitPosition, Assess | A call that changes nothing neither needs nor raises an epoch. | Admit epochs in mutating calls only.
GD-EPOCH-008 | MUST | all | Epochs of different components are independent. | Keep one per group and component.
GD-EPOCH-009 | MUST | all | Epochs are 64 bits wide. | Do not keep them in a double or 32 bits.
GD-STATUS-001 | MUST | GetStatus | Role and accepting are observed, never an echo of what was asked for: a refused or unfinished request does not show. | Ask the component.
GD-STATUS-002 | MUST | GetStatus | observed_at_ns is CLOCK_MONOTONIC of this machine, at or after the call's beginning less a second, and never falls. | Take the time just before observing.
GD-STATUS-003 | MUST | GetStatus | accepting is true only with role ACTIVE. | Derive both from one observation.
GD-STATUS-004 | MUST | GetStatus | Reading changes nothing. | Observe only.
GD-STATUS-005 | MUST | GetStatus | It answers within its deadline, also beside any other call in flight. | Take no lock of the mutating calls.
GD-STATUS-006 | MUST | GetStatus | With SYNCHRONOUS, promotable is the component's own evidence, in any role and across its server's death, that it has every acknowledged write; false comes with a reason; without data it is false. | Keep the evidence on disk until the data changes; say what is missing.
GD-STATUS-007 | MUST | GetStatus | Every enum has a value of the contract; health is not UNSPECIFIED. | Map what you do not know to UNKNOWN.
GD-STATUS-008 | MUST | GetStatus | Lag is negative when unknown or without meaning, and finite. | Use -1.
GD-STATUS-009 | MUST | GetStatus | A component that stopped working is not told as HEALTHY and accepting. | Ask the component each time.
GD-WATCH-001 | MUST | WatchStatus | The present status comes at once. | Send before waiting for a change.
GD-WATCH-002 | MUST | WatchStatus | Each change of role is told without being asked. | Notify after each observed change.
GD-WATCH-003 | MUST | WatchStatus | A new watch after a loss of connection or a restart begins with the present status. | Keep no state per caller.
GD-WATCH-004 | MUST | WatchStatus | Several watches at the same time get the same facts. | Broadcast.
GD-WATCH-005 | MUST | WatchStatus | There is a sign of life at least every 2 s. | Repeat the status each second.
GD-WATCH-006 | MUST | WatchStatus | A watch that is cancelled disturbs nothing. | Free what it held.
GD-WATCH-007 | MUST | WatchStatus | It goes on until its caller or the driver ends, whatever it has told already. | Do not count; do not give up after an error of the component.
GD-GATE-001 | MUST | RenewLease | An open gate stays open until the new deadline. | Move the end of the kernel's element.
GD-GATE-002 | MUST | RenewLease | A gate that is shut is never opened by RenewLease: open is false. | Update, never add.
GD-GATE-003 | MUST | EnsureRole, RenewLease | The gate shuts by itself at the deadline. | Let the kernel end it, not a timer of the driver.
GD-GATE-004 | MUST | EnsureRole, RenewLease | A deadline that has passed is refused with FAILED_PRECONDITION, and nothing opens. | Compare with CLOCK_MONOTONIC.
GD-GATE-005 | MUST | EnsureRole, RenewLease | A deadline of 0, or more than 60 s ahead, is refused with INVALID_ARGUMENT. | It was read from another clock.
GD-GATE-006 | MUST | RenewLease | Where the component is not ACTIVE, open is false and nothing opens. | Look at the observed role.
GD-GATE-007 | MUST | RenewLease | It does not wait behind another call for the same component. | Give it a lane of its own.
GD-GATE-008 | MUST | EnsureRole | FENCED, STANDBY and INVALIDATED shut an open gate at once, whatever is left of the lease. | Delete the element first.
GD-GATE-009 | MUST | process | A killed driver's gate is shut at the deadline at the latest, and its restart does not open it. | Let the kernel end it; open only in EnsureRole(ACTIVE).
GD-POS-001 | MUST | Quiesce | When completed nothing is accepted, and the position is given. | Refuse writes, wait for those in flight, then read the position.
GD-POS-002 | MUST | Quiesce | The position is final and reproducible: again gives the same. | Read it after the last write has ended.
GD-POS-003 | MUST | Unquiesce | The component is ACTIVE and accepts again, in the same epoch. | Undo Quiesce, nothing else; idempotent.
GD-POS-004 | MUST | Quiesce, Unquiesce | Refused with FAILED_PRECONDITION where the component is not ACTIVE. | Look at the observed role.
GD-POS-005 | MUST | AwaitPosition | A position that is here is reached at once, and the position told. | Compare before waiting.
GD-POS-006 | MUST | AwaitPosition | reached is true only when everything up to the position is here and applied; else false, within timeout_ms and a second. | Compare the applied position.
GD-POS-007 | MUST | AwaitPosition | A text that is no position is refused with INVALID_ARGUMENT. | Parse it first.
GD-POS-008 | MUST | AwaitPosition | A position given by the active is reached at a standby that follows it. | Use one notation at all sites.
GD-POS-009 | MUST | Quiesce | The position covers every acknowledged write. | Read it after the last acknowledgement.
GD-POS-010 | MUST | Quiesce, Unquiesce, RenewLease | Without an epoch (0) it is refused with INVALID_ARGUMENT. | Check it first.
GD-POS-011 | MUST | AwaitPosition | Where the component follows it waits: a position that arrives within timeout_ms is told as reached. | Look again, until the time is over.
GD-RESYNC-001 | MUST | Assess | CLEAN when nothing is missing and nothing is too much. | Compare whole histories.
GD-RESYNC-002 | MUST | Assess | BEHIND when only something is missing. | Compare whole histories, not their lengths.
GD-RESYNC-003 | MUST | Assess | DIVERGED when this site has what the active does not, and divergent names it. | Subtract the histories.
GD-RESYNC-004 | MUST | Assess | EMPTY when there is nothing here. | Tell it from BEHIND.
GD-RESYNC-005 | MUST | Assess | UNKNOWN, or an error, when either side cannot be read; never CLEAN by default. | Unknown means hold.
GD-RESYNC-006 | MUST | Assess | Assess changes nothing and gives the same verdict again. | Read only.
GD-RESYNC-007 | MUST | Resync | When completed, Assess says CLEAN and STANDBY can be taken. | Verify before answering.
GD-RESYNC-008 | MUST | Resync | What diverged is archived before it is removed, and archive says where. | Copy, sync, then remove.
GD-RESYNC-009 | MUST | Resync | Refused with FAILED_PRECONDITION where the component is ACTIVE. | Never touch the active's data.
GD-RESYNC-010 | MUST | Resync | Idempotent: again with the same request completes and changes nothing. | Assess first.
GD-RESYNC-011 | MUST | Assess, Resync | Without the active's site, or with an unknown strategy, INVALID_ARGUMENT. | Check arguments first.
GD-RESYNC-012 | MUST | EnsureRole | A diverged site does not follow: STANDBY is refused with FAILED_PRECONDITION or not completed, and its own data stays. | Compare before following.
GD-RESYNC-013 | MUST | Resync | FOLLOW of a diverged site is refused with FAILED_PRECONDITION or not completed. | Only REBUILD may remove data.
GD-CALL-001 | MUST | EnsureRole, Quiesce, Unquiesce, Resync | One at a time per component: another is refused with ABORTED, or waits; the outcome is that of some order. | Hold a lane per component.
GD-CALL-002 | MUST | all | The caller's deadline is kept; after it the same call can be repeated. | Cancel the work, free the lane.
GD-CALL-003 | MUST | all | A cancelled call leaves a state from which the same call continues. | Continue or undo half-done steps.
GD-CALL-004 | MUST | all | Unknown fields are ignored. | Use the generated parser as it is.
GD-CALL-005 | MUST | all | Every error is a status of the contract's table with a message for people; no traceback. | Map errors by the table.
GD-CALL-006 | MUST | all | Calls for many components, or many callers, do not disturb each other. | Share no state between components.
GD-CALL-007 | MUST | AwaitPosition, Assess | Waiting for a peer or a position holds up no change of role. | Take no lock of the mutating calls; FENCED must always be possible.
GD-CALL-008 | MUST | all | An answer has at most 256 KiB. | Cut texts off; name where the whole is.
GD-CRASH-001 | MUST | all | After kill -9 in the middle of a call, the restarted driver completes the same call. | Derive the state from the component, not from memory.
GD-CRASH-002 | MUST | process | After a restart nothing is accepted that was not before: a component that was not ACTIVE stays shut. | Start without a role.
GD-CRASH-003 | MUST | process | It starts again on the same socket after kill -9. | Remove a stale socket; hold a lock.
GD-CRASH-004 | MUST | process | SIGTERM ends the process with status 0 within 20 s, also with watches open. | Handle the signal; end streams.
GD-SECRET-001 | MUST | all | No secret of the parameters is in an error or a status, also when parameters are refused. | Redact; never print a value of a secret field.
GD-SECRET-002 | MUST | process | No secret is in the driver's output. | Redact in the log's formatter.
"""


def _read(table: str) -> dict[str, Requirement]:
    found: dict[str, Requirement] = {}
    for line in table.strip().splitlines():
        requirement = Requirement(*(part.strip() for part in line.split("|")))
        if requirement.id in found:
            raise ValueError(f"two requirements are called {requirement.id}")
        found[requirement.id] = requirement
    return found


REQUIREMENTS: Final = _read(_TABLE)
