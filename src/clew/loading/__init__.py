"""From a name or folder to a model with its preprocessing or tokenizer."""
