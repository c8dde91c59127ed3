"""The pv driver: a volume that follows the active site, in generations.

A generation is a whole tree of files that never changes any more, with a manifest of every file's checksum. It is made
at the active site, pulled by the standby over TLS with rsync, verified, and only then renamed to its name: what has the
name is complete. The standby pulls and nobody pushes: a deposed site can write nowhere.

What may live here: trees of files, their copying, and the driver that puts them behind ``graf.driver.v1``. What may
not: anything of ``graf`` (a driver imports only the SDK), and any decision about who is active.

Modules, from the bottom up: ``parameters`` and ``position`` (pure), ``manifest``, ``durable``, ``layout``, ``record``,
``store`` (generations on disk), ``events`` (inotify), ``hooks``, ``seal`` (making generations), ``tls``, ``server`` and
``client`` (the protocol between sites), ``copying`` (copiers, laying down), ``upstream`` (what a site that follows asks) and ``wire``
(rsync over TLS), ``active``, ``follow`` (pulling), ``component`` (roles), ``resync`` (the way back), ``status``,
``driver``, ``main``. ``testing`` serves tests and the benchmark only.
"""
