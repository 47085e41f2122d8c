"""The report of an evaluation: metrics by protocol, tables and files."""
