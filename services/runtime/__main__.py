import sys

from services.runtime.main import main

if __name__ == "__main__":  # vLLM's child imports this file
    sys.exit(main())
