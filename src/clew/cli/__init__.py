"""The command line: one file for each verb that is long."""
