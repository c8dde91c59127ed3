"""The GRAF controller of a site, and graf-witness, the voter alone.

What may live here: executing what graf.core decides, through links to voters and drivers. One thread keeps leases on
an event loop that nothing may block; the Kubernetes API is spoken from another thread. What may not: decisions.
"""
