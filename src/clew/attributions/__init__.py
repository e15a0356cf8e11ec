"""Results: scores with their checks, how they are kept, compared and shown."""
