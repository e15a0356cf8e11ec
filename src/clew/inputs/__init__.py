"""Images, texts and words as users pass them, and their conversion to a model's inputs."""
