"""GRAF driver for MariaDB and MySQL: instance manager, promotion, fencing, semi-synchronous replication, resync.

What may live here: what one MariaDB or MySQL server needs to have a role at a site. What may not: which site should be
active, anything of `graf`, anything about another kind of component. Only ``graf_driver_sdk``, PyMySQL and the standard
library are imported.

Reading order: ``driver.py`` (the contract's calls), ``component.py`` (which side acts), ``active.py`` and
``standby.py`` (the sides), ``seed.py`` (data for an empty site), ``resync.py`` (the way back), ``tail.py`` with
``binlog.py`` (what was only here), ``rotation.py`` with ``credentials.py``, ``passwords.py`` and ``tls.py`` (what the
mounted Secrets say is in force), ``recovery.py`` (the rule of a crash), ``backend.py`` and ``server.py`` (the process),
``engine.py`` with ``mariadb.py`` and ``mysqldb.py`` (what differs between the products), ``observe.py`` and
``status.py`` (what is reported). Page: docs/reference/drivers/mysql.md.
"""
