"""A running training under watch: a process's session, its trainings, and the user's handle."""
