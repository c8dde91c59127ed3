"""For authors of drivers: `graf driver new` and what it needs.

What may live here: the scaffold's templates (files ending in `.j2`), rendering them into a new folder as a whole or not
at all, and packing the SDK and the conformance kit of this installation for that folder. What may not: anything that a
running controller or manager needs.
"""
