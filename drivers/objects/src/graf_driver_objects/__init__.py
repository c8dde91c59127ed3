"""Driver for chosen Kubernetes objects: the standby follows the active's ConfigMaps, Secrets and custom resources.

What may live here: reading objects of this site's API server, shipping them as numbered generations over mutual TLS,
and applying them at the standby. No site ever gets credentials of another site's API server. The parts, from pure to
I/O: `parameters`, `model`, `transform` < `ledger`, `cluster`, `exchange` < `applying`, `source`, `follower` <
`backend` < `driver`.
"""
