"""The exhaustive check: every interleaving of small groups, with the functions of `graf.core` themselves.

Pure, but for `command`: values in, values out, no clock, no I/O, no randomness. Whatever is abstracted here must be
argued for in docs/explanation/exhaustive-check.md.
"""
