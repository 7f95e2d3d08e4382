"""What runs, in which order and where: configuration, pipeline, runners, command line."""
