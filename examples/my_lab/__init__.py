"""Parts of one's own: run from the folder `examples`, with --config-dir my_lab/conf."""
