"""Mode ``volsync``: which data a promotion opens, as a table. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from graf_driver_sdk.errors import PreconditionError


class Opens(Enum):
    """What is to be done with the PVC before it is served."""

    AS_IS = "it has the newest data"
    FROM_IMAGE = "it is made from the newest image"
    REPLACE = "it is older than the newest image: deleted, then made anew"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at a promotion.

    Attributes:
        component: `GROUP/COMPONENT`, and `source` the PVC's name, for messages.
        claim: the PVC is there.
        mine: it has been served, or was made, by this component.
        of_image: the image that it was made from.
        image: the newest complete image here; empty for none.
        fresh: that image came after this site began to follow, and it has not served since.
        followed: this site has followed another one since it served.
        unsent: it served, and the other site is not known to have everything.
        forgotten: the driver has lost its record of what was served.
    """

    component: str
    source: str
    claim: bool
    mine: bool
    of_image: str
    image: str
    fresh: bool
    followed: bool
    unsent: bool
    forgotten: bool


def chosen(now: Facts) -> Opens:
    """The newest complete data here.

    Raises:
        PreconditionError: there is none, or which one is the newest is not known: nothing is opened.
    """
    if now.forgotten and now.image and now.of_image != now.image:
        raise PreconditionError(
            f"the record of {now.component} is gone: whether PersistentVolumeClaim {now.source} or the copy "
            f"{now.image} is newer is not known; delete the one that is not to be opened (the claim, or the "
            "ReplicationDestination)",
            reason="record-unreadable",
        )
    if now.unsent:
        return _unsent(now)
    if now.fresh and now.image:
        return _image(now)
    if now.mine:
        return Opens.AS_IS  # all that was served here went to the other site, and nothing has come back yet
    if now.followed:
        raise PreconditionError(
            f"{now.component} has followed another site and VolSync has no complete copy here: it would serve an empty "
            "volume; wait for a first copy",
            reason="no-copy",
        )
    if not now.claim:
        raise PreconditionError(
            f"{now.component} has neither PersistentVolumeClaim {now.source} nor a copy; create the claim",
            reason="no-claim",
        )
    return Opens.AS_IS


def _unsent(now: Facts) -> Opens:
    if now.claim:
        return Opens.AS_IS
    if now.followed and now.image:
        return Opens.FROM_IMAGE  # a crash between the record and the claim
    raise PreconditionError(
        f"PersistentVolumeClaim {now.source} is gone, and with it what {now.component} served last: nothing older is "
        "opened in its place; give the role to the other site, or restore the claim",
        reason="claim-gone",
    )


def _image(now: Facts) -> Opens:
    if not now.claim:
        return Opens.FROM_IMAGE
    if not now.mine:
        raise PreconditionError(
            f"PersistentVolumeClaim {now.source} is not of {now.component}, and the copy {now.image} is newer; delete "
            "the claim, it is made from the copy then",
            reason="not-mine",
        )
    if now.of_image == now.image:
        return Opens.AS_IS
    return Opens.REPLACE
