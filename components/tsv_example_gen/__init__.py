"""TSV files of a task to tf.Example records; rows that do not fit are kept with their reason."""
