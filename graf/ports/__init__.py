"""What the layers above ask of the outside world, as Protocols with their errors.

What may live here: a Protocol with the values and errors that belong to it, so that a caller and its tests need no
network. What may not: an implementation (graf.shell has those), or a Protocol that only one module of graf.shell uses;
that one stays beside its implementation.
"""
