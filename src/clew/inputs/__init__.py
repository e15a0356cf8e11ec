"""Pictures, texts and words as people have them, and what a model takes in their place."""
