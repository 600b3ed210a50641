"""A running training under watch: the session of a process, its trainings, and the user's handle."""
