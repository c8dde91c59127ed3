"""GRAF driver for Redis: an example of a role driver for something outside 5G.

What may live here: one Redis server beside its driver, and its own replication. What may not: anything another driver
would have to copy; that belongs to the SDK. Every driver package has the same files: `main` (entry), `driver` (the
contract), `parameters` (typed, with their problems), `backend` (what it controls). Beside them: `server` (the process),
`history` (what two histories are to each other; pure), `record` (what must outlive the server).
"""
