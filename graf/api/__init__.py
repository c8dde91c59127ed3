"""Vocabulary: frozen values and enums that every other package speaks.

What may live here: words of the design's glossary as types, with the arithmetic that belongs to them. What may not:
I/O, clocks, logging, anything that decides. Durations and points in time are integers in nanoseconds.
"""
