"""Scenario files: a disaster as steps and expectations, in words that hold in the simulator and in the lab alike.

What may live here: the typed model of a file, its rules, the files themselves (`files/*.yaml`, package data). What may
not: reading of files (`graf.shell.scenarios` does), clocks, anything that knows how a world does what a step asks for.
"""
