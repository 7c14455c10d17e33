"""The command line and the batch jobs; the only package that knows Ray."""
