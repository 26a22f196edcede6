"""`python -m veridical` is `veridical`."""

from veridical.cli.main import main

main()
