import sys

if __name__ == "__main__":
    from services.runtime.main import main

    sys.exit(main())
elif __name__ == "__mp_main__":  # a process that vLLM spawned
    from services.runtime.outbound.vllm_child import end_with_parent

    end_with_parent()
