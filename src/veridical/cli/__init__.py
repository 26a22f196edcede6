"""The command line: `veridical audit`, `explain`, `attack`, `gate`, `report`, `methods`, `tests` and more."""
