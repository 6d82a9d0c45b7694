"""What everything stands on: errors, files, parameters. Imports no torch."""
