"""What a person types or clicks, as inputs, targets and results: for the command line and the page."""
