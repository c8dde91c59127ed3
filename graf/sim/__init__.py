"""Deterministic simulator: the functions of `graf.core` in a world of one event heap.

What may live here: the world (network, disks, databases, gates, clients, Git, managers), its faults, the monitors of
the invariants, planted bugs, and what runs, replays and shrinks a seed. What may not: asyncio, clocks, I/O, third-party
packages (PyPy runs it), any copy of a decision that `graf.core` takes. Only `command.py` and what it names may print.
"""
