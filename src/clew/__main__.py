"""`python -m clew`, for launchers such as `accelerate launch -m clew finetune …`."""

from .cli.main import main

main()
