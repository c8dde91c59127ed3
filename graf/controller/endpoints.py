"""Where voters are reached: those declared now, and those that still vote although they are declared no more.

During a change of voters the list in force and the declared one differ, and Git may reach one site earlier than the
other. What a site was told once it therefore keeps on its disk, and it tells its peers, for as long as such a voter
counts.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from graf.shell.disk import write_durably
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

LOG = logging.getLogger("graf.endpoints")


class Endpoints:
    """Endpoint of each voter, by group. Nothing on the failover path waits for the disk: `spool` writes later.

    Invariant: what is declared wins over what was kept or heard.
    """

    def __init__(self, path: Path | None, spool: Callable[[Callable[[], None]], None]) -> None:
        self._path = path
        self._spool = spool
        self._declared: dict[str, dict[str, str]] = {}
        self._kept: dict[str, dict[str, str]] = {}
        if path is None or not path.exists():
            return
        try:
            content = json.loads(path.read_bytes())
            self._kept = {str(g): {str(v): str(e) for v, e in of.items()} for g, of in content.items()}
        except (OSError, ValueError, AttributeError) as error:
            # The declared ones come with the assignment; only voters of an unfinished change are missing.
            event(
                LOG, "kept endpoints unreadable, using declared ones", logging.ERROR, file=str(path), cause=str(error)
            )

    def of(self, group: str) -> dict[str, str]:
        """Every known endpoint."""
        return {**self._kept.get(group, {}), **self._declared.get(group, {})}

    def declare(self, group: str, endpoints: Mapping[str, str]) -> None:
        """The assignment names these. What it no longer names is kept until `keep_only` says otherwise."""
        known = {**self.of(group), **endpoints}
        self._declared[group] = dict(endpoints)
        self._keep(group, known)

    def heard(self, group: str, endpoints: Mapping[str, str]) -> None:
        """A peer knows these."""
        self._keep(group, {**endpoints, **self._kept.get(group, {})})

    def keep_only(self, group: str, voters: Collection[str]) -> None:
        """Forgets whose word counts no more."""
        self._keep(group, {voter: e for voter, e in self._kept.get(group, {}).items() if voter in voters})

    def _keep(self, group: str, endpoints: dict[str, str]) -> None:
        if endpoints == self._kept.get(group, {}):
            return
        self._kept[group] = endpoints
        path = self._path
        if path is not None:
            content = json.dumps(self._kept, indent=1, sort_keys=True).encode()
            self._spool(lambda: write_durably(path, content))
