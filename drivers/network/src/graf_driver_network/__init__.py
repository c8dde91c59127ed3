"""The network driver: a service address that follows the active site, and the gate in front of it.

What may live here: the gate (nftables), the speaker (BIRD), the address itself, and the driver that puts them
behind ``graf.driver.v1``. What may not: anything of ``graf`` (a driver imports only the SDK), any knowledge of
other components, and any decision: who is active is the controller's to say and the lease's to limit.

Modules, from the bottom up: ``libnftables`` (the C library), ``elements`` and ``gate`` (who passes, and until when),
``connections``, ``address`` (rtnetlink), ``fields`` and ``parameters`` with one module per mode (pure), ``announcer``
(what every mode is to the backend) and the modes: ``bgp`` (with ``bird_config``, ``passwords``, ``bird``), ``vip``
(with ``link``), ``dns_name`` (with ``dns_zone``), ``objects`` (with ``cluster``, ``object_bodies``); ``observed`` is
what the last two look far away with. Then ``backend`` (the lease, the gate and the order of things), ``driver`` (the
SDK's interface), ``main``. What is called ``testing`` serves tests and benchmark only.
"""
