"""What people touch: the Python API, the command line, the report."""
