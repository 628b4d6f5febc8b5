"""Tables of one's own: CSV, Parquet and NumPy files with a role for each column."""
