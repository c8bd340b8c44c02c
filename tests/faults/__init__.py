"""A storm for the whole box: real processes, faults by name, and an oracle that reads what devices saw."""
