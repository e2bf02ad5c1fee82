"""python -m hubpub."""

from hubpub.cli import main

if __name__ == "__main__":
    main()
