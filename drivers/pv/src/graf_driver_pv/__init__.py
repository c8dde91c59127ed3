"""The pv driver: a volume that follows the active site, in generations.

A generation is a whole tree of files that never changes any more, with a manifest of every file's checksum. It is made
at the active site, pulled by the standby, verified, and only then renamed to its name: what has the name is complete.
The standby pulls and nobody pushes: a deposed site can write nowhere, or, with a repository, nothing that counts.

What may live here: trees of files, their copying, and the driver that puts them behind ``graf.driver.v1``. What may
not: anything of ``graf`` (a driver imports only the SDK), and any decision about who is active.

Modules, from the bottom up: ``parameters`` and ``position`` (pure), ``manifest``, ``durable``, ``layout``, ``record``,
``store`` (generations on disk), ``events`` (inotify), ``hooks``, ``seal`` (making generations). How generations go from
site to site: ``outlet`` and ``upstream`` say what the active and the following side ask of a way; ``copying`` is what
ways share. One way is rsync over TLS: ``tls``, ``server``, ``client``, ``small``, ``delta``, ``wire``. The other is a
restic repository: ``catalog`` (pure: what counts in it), ``restic``, ``deposit`` (the active side), ``repository`` (the
following side). Then ``active``, ``follow``, ``component`` (roles), ``resync`` (the way back), ``status``, ``driver``,
``main``. Mode ``volsync`` shares only ``durable`` and ``record`` with these: ``volsync_parameters``,
``volsync_notes`` (which copies were seen, and how old they may be), ``volsync_cluster`` (the API server),
``volsync_objects`` (pure), ``volsync_owned`` (writing under the epoch), ``volsync_claim`` (which data a promotion
opens), ``volsync_status`` (pure), ``volsync`` (roles); ``entry`` chooses. What begins with ``testing`` serves tests and
the benchmark only.
"""
