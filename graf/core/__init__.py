"""The decision core: pure functions and state machines on frozen values.

What may live here: voter, lease, campaign, synchronous set, and the decisions of a site and of the manager. Time is an
argument (the caller's monotonic clock: nanoseconds at the sites, seconds in the manager's planning). What may not: I/O,
clocks, randomness, asyncio, logging. The same code runs in the controllers, in graf-witness, in the manager and in the
simulator.
"""
