"""Prediction on files of users: inputs, the loop over them, and the tables, pages and images it writes."""
