"""The Redundancy Manager: policies in, decisions into the record, planned operations through the sites.

Here live the manager's loops (operator, link to the sites, Git); what they decide is `graf.core.planning`. Nothing here
grants a lease, and nothing on a failover path waits for anything here: the manager can be lost at any time.

Threads, none of which waits for another: leader election; kopf (own event loop); the link to the sites (own event
loop); Git; and one reconcile that reads, computes and writes. They meet in `state.State` only.
"""
