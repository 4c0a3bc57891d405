"""Workers to read, run and copy, written as users write them: from the public names alone."""
