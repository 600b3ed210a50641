"""What people see of a run: figures, the single-file report and the verdict in the terminal.

A view only draws. It reads a `RunData` or a `Report`, decides nothing, and treats every word that
comes from the run (layer names above all) as hostile text.
"""
