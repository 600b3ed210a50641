"""What the tables' trainings are made of: tasks, networks, loops, optimizers, faults."""
