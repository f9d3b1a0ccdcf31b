"""`python -m symlearn`: the same as the command `symlearn`."""

from symlearn.cli import main

main()
