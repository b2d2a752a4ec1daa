"""`python -m emolens` is the command line."""

from emolens.cli import main

main()
