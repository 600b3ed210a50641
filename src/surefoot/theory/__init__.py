"""What theory expects of a network at initialisation."""
