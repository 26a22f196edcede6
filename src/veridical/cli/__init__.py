"""The command line: `veridical audit`, `explain`, `gate`, `report`, `methods`, `tests` and `models`."""
