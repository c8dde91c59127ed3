"""GRAF driver for a component that is only a list of writes: the smallest example, and the controller's test double.

What may live here: the example, and the faults that tests script into it. What may not: anything a real driver would
have to copy; that belongs to the SDK. Every driver package has the same files: `main` (entry), `driver` (the contract),
`parameters` (typed, with their problems), `backend` (what it controls).
"""
