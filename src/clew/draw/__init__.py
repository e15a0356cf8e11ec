"""Arrays and words to pictures and pages; knows no model."""
