"""The verbs of the command line, one file each: options in, the work called, a table out."""
