"""Stands in for VolSync's controller and for what makes volumes, at two sites; for tests only.

It goes through the states that VolSync's own controller goes through and writes the same fields of `status`, the times
cut to seconds: a copy is begun also while paused; what it shows is what the volume had when the source began with it; a
source goes on with the copy that it began for as long as it cannot be sent; whichever copy ends next is told as the one
that was asked for; a destination waits for its next copy as soon as it has one. What a volume holds is a set of words.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.testing_volsync import CLAIM_NAME, NAME, Api, Clusterwide
from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION, SNAPSHOT, SOURCE, Cluster, ClusterError, Kind

Found = dict[str, Any]


class Admin(Cluster):
    """What controllers do beyond a driver."""

    def put_status(self, kind: Kind, body: Found) -> None:
        """As controllers do: refused when somebody else wrote the object since it was read."""
        code, _ = self._call("PUT", kind, "write a status", f"{body['metadata']['name']}/status", body)
        if code >= 300:
            raise ClusterError(f"a status was refused: {code}")

    def everywhere(self, kind: Kind) -> list[Found]:
        """Every object of every namespace."""
        _, answer = self._call("GET", Clusterwide(kind.api, kind.plural, kind.name), "list", "")
        return [item | {"apiVersion": kind.api, "kind": kind.name} for item in (answer or {}).get("items", [])]

    def let_go(self, kind: Kind, found: Found) -> None:
        """The end of an object that waits for its end."""
        body = copy.deepcopy(found)
        body["metadata"]["finalizers"] = []
        self.replace(kind, body)


@dataclass
class Site:
    """One site's volumes.

    Attributes:
        objects: as they were when this look began.
        claims: what is in each PVC, by its uid.
        images: what is in each snapshot, by its name.
        received: what is in the volume that copies are written into.
        taken: what the copy under way shows, by the uid of its source.
        sent: sources whose copy has been sent, and whose status does not say so yet.
        half: a copy has begun to come and not ended.
        whole: a copy has come, and its image is to be made.
        in_use: a Pod has the PVC mounted.
    """

    name: str
    admin: Admin
    objects: dict[Kind, list[Found]] = field(default_factory=dict)
    claims: dict[str, set[str]] = field(default_factory=dict)
    images: dict[str, frozenset[str]] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    taken: dict[str, frozenset[str]] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    half: bool = False
    whole: bool = False
    in_use: bool = False

    def one(self, kind: Kind) -> Found | None:
        """The component's object."""
        name = CLAIM_NAME if kind is CLAIM else NAME
        return next((found for found in self.objects.get(kind, ()) if found["metadata"]["name"] == name), None)


class StandIn:
    """Both sites' controllers. Each `step` is one look of each of them.

    Attributes:
        link: copies reach the other site.
        spare: where the other site takes no copy, somebody else does.
        pace_s: how long each copy takes at the least; with 0 it takes steps, of a second of the controllers' time each.
        behind_s: how long ago it is for the controllers.
        images: an image is made as soon as a copy has come.
    """

    def __init__(self, api: Api, *names: str, spare: bool = False, pace_s: float = 0.0) -> None:
        self.sites = {name: Site(name, Admin(str(api.kubeconfig), name, 20)) for name in names}
        self.link, self.spare, self.images, self.pace_s = True, spare, True, pace_s
        # VolSync tells whole seconds, and no two copies of it end in the same one: here each step takes one.
        self.behind_s = 0.0 if pace_s else 300.0
        self._made = self._steps = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        """One look of every controller; what meets another write is done at the next one."""
        with self._lock:
            self.behind_s -= 0.0 if self.pace_s else 1.0
            self._steps += 1
            self._read(SOURCE, DESTINATION, CLAIM)
            looks = [self._claims, self._source, self._destination]
            if self._steps % 3 == 0:  # archives are rare, and each look costs
                self._read(SNAPSHOT)
                looks.append(self._snapshots)
            for site in self.sites.values():
                for look in looks:
                    with contextlib.suppress(ClusterError):
                        look(site)

    def _read(self, *kinds: Kind) -> None:
        admin = next((site.admin for site in self.sites.values()), None)
        for kind in kinds if admin is not None else ():
            found = admin.everywhere(kind)  # type: ignore[union-attr]
            for site in self.sites.values():
                site.objects[kind] = [one for one in found if one["metadata"]["namespace"] == site.name]

    def until(self, what: str, seen: Callable[[], bool]) -> None:
        """Steps until something is so."""
        for _ in range(40):
            if seen():
                return
            self.step()
        raise AssertionError(f"the controllers' stand-in waited in vain for: {what}")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Steps in a thread of its own."""
        ended = threading.Event()

        def steps() -> None:
            while not ended.is_set():
                self.step()
                time.sleep(0.02)

        thread = threading.Thread(target=steps, name="volsync-stand-in")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    # -- applications ------------------------------------------------------------------------------------------------

    def write(self, name: str, value: str) -> None:
        """An application's write into the PVC."""
        with self._lock:
            self._volume(name).add(value)

    def read(self, name: str) -> set[str]:
        """What an application finds in the PVC."""
        with self._lock:
            return set(self._volume(name))

    def pause(self, name: str) -> None:
        """Somebody pauses the source."""
        with self._lock:
            site = self.sites[name]
            self._read(SOURCE)
            found = site.one(SOURCE)
            assert found is not None
            site.admin.replace(SOURCE, found | {"spec": found["spec"] | {"paused": True}})

    def end(self, name: str, kind: Kind) -> None:
        """Somebody takes an object away."""
        with self._lock:
            site = self.sites[name]
            for _ in range(40):
                self._read(kind)
                found = site.one(kind)
                if found is None:
                    return
                with contextlib.suppress(ClusterError):
                    if objects.is_ending(found):
                        site.admin.let_go(kind, found)
                    else:
                        site.admin.delete(kind, found)
        raise AssertionError(f"{kind.name} at {name} does not end")

    def _volume(self, name: str) -> set[str]:
        site = self.sites[name]
        self._read(CLAIM, DESTINATION)
        self._claims(site)
        found = site.one(CLAIM)
        assert found is not None, f"there is no PVC at {name}"
        return site.claims[found["metadata"]["uid"]]

    def image(self, name: str) -> frozenset[str]:
        """What the newest image shows."""
        site = self.sites[name]
        self._read(DESTINATION)
        found = site.one(DESTINATION)
        return site.images[objects.image_of(found).partition("/")[2]]

    # -- controllers -------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.fromtimestamp(time.time() - self.behind_s, UTC)

    def _claims(self, site: Site) -> None:
        """The populator, and the end of a PVC that no Pod uses."""
        found = site.one(CLAIM)
        if found is None:
            return
        uid = found["metadata"]["uid"]
        if objects.is_ending(found):
            if not site.in_use:
                site.admin.let_go(CLAIM, found)
        elif uid not in site.claims:
            image = ""
            if (found["spec"].get("dataSourceRef") or {}).get("kind") == DESTINATION.name:
                latest = objects.status_of(site.one(DESTINATION)).get("latestImage") or {}
                image = latest.get("name", "")
                if latest.get("kind") == CLAIM.name:  # the volume that copies are written into, as it is now
                    site.images[image] = frozenset(site.received)
            site.claims[uid] = set(site.images[image]) if image else set()

    def _snapshots(self, site: Site) -> None:
        for found in site.objects.get(SNAPSHOT, ()):
            if not objects.status_of(found).get("readyToUse"):
                claim = site.one(CLAIM)
                assert claim is not None
                site.images[found["metadata"]["name"]] = frozenset(site.claims[claim["metadata"]["uid"]])
                site.admin.put_status(SNAPSHOT, found | {"status": {"readyToUse": True}})

    def _source(self, site: Site) -> None:
        found = site.one(SOURCE)
        if found is None:
            return
        uid = found["metadata"]["uid"]
        if objects.is_ending(found):
            site.taken.pop(uid, None)
            site.sent.discard(uid)
            site.admin.let_go(SOURCE, found)
        elif not objects.is_copying(found):
            if self._is_due(found):
                self._begin(site, SOURCE, found)
        elif uid not in site.taken:
            claim = site.one(CLAIM)
            if claim is not None:
                site.taken[uid] = frozenset(site.claims.get(claim["metadata"]["uid"], ()))
        elif uid in site.sent or (self._is_time(found) and self._send(site, site.taken[uid])):
            site.sent.add(uid)
            self._end(site, SOURCE, found)
            site.sent.remove(uid)
            del site.taken[uid]

    def _is_time(self, found: Found) -> bool:
        start = datetime.fromisoformat(objects.status_of(found)["lastSyncStartTime"])
        return not objects.is_paused(found) and (self._now() - start).total_seconds() >= self.pace_s

    def _send(self, site: Site, content: frozenset[str]) -> bool:
        """In two parts: half of it, then all. Whether it has been sent."""
        others = [other for other in self.sites.values() if other is not site]
        target = others[0] if others else None
        found = target.one(DESTINATION) if target is not None else None
        waits = found is not None and objects.is_copying(found) and not objects.is_paused(found)
        if target is None or not self.link or not waits or target.whole:
            return self.link and self.spare and not waits
        if not target.half:
            words = sorted(content)
            target.received = set(words[: len(words) // 2])
            target.half = True
            return False
        target.received, target.half, target.whole = set(content), False, True
        return True

    def _destination(self, site: Site) -> None:
        found = site.one(DESTINATION)
        if found is None:
            return
        if not objects.is_copying(found):
            self._begin(site, DESTINATION, found)
        elif site.whole and self.images:  # a pause ends the mover, and not the image of what has come
            self._made += 1
            kind, name = SNAPSHOT.name, f"image-{self._made}"
            if found["spec"]["rsyncTLS"]["copyMethod"] == "Direct":
                kind, name = CLAIM.name, "volsync-files-dst"
            site.images[name] = frozenset(site.received)
            self._end(site, DESTINATION, found, latestImage={"apiGroup": "", "kind": kind, "name": name})
            site.whole = False

    def _is_due(self, found: Found) -> bool:
        tag = objects.tag_of(found)
        status = objects.status_of(found)
        return not tag or tag != status.get("lastManualSync") or not status.get("lastSyncTime")

    def _begin(self, site: Site, kind: Kind, found: Found) -> None:
        status = {**objects.status_of(found), "lastSyncStartTime": f"{self._now():%Y-%m-%dT%H:%M:%SZ}"}
        site.admin.put_status(kind, found | {"status": status})

    def _end(self, site: Site, kind: Kind, found: Found, **more: Any) -> None:
        status, now = {**objects.status_of(found), **more}, self._now()
        taken_s = (now - datetime.fromisoformat(status.pop("lastSyncStartTime"))).total_seconds()
        done = {"lastSyncTime": f"{now:%Y-%m-%dT%H:%M:%SZ}", "lastSyncDuration": f"{taken_s:.6f}s"}
        site.admin.put_status(kind, found | {"status": status | done | {"lastManualSync": objects.tag_of(found)}})
