"""Accelerators: which there are, may they be used, and do they beat the CPU."""
