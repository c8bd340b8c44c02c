"""The `tampu` command: one module per verb, each cheap to import."""
