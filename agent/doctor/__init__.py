"""What is wrong with the box, the build and the choice, as findings with remedies."""
