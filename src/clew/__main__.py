"""`python -m clew`, for launchers such as `accelerate launch -m clew finetune …`."""

from .cli import main

main()
