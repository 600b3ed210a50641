"""`python -m corpus`."""

from corpus.run import main

main()
