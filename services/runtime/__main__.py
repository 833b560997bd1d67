import sys

from services.runtime.main import main

if __name__ == "__main__":
    sys.exit(main())
