"""`python -m surefoot` is the same program as `surefoot`."""

from surefoot.cli import main

if __name__ == "__main__":
    main()
