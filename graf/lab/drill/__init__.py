"""Drills: a lab, a workload, a fault script, checks and a report.

What may live here: the scenarios, the clients and the observer that measure from outside, the arithmetic on what they
measured, the verdict and the reports. What may not: anything that the service under test could depend on. A drill
knows the service only as a user (address, port, account), as an operator (the management cluster's API, Git) and as
a saboteur (the lab's faults).

Pure modules: `model`, `measure`, `overlap`, `verdict`. Their input is what the other modules wrote down.
"""
