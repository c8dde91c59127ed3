"""The command line for operators: `graf`.

What may live here: arguments, tables, words for people, exit codes. What may not: decisions, and anything that reads
a cluster otherwise than through `graf.ports.group_api`. Sub-commands that need more than that (the lab, the drills)
come from the entry-point group `graf.commands`; nothing here imports them by name.
"""
