"""What is said about families of models, their heads and their files, and what to say of those that are not known."""
