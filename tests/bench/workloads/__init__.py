"""What both sides are made to do, one module each; `measure(bench)` gives its figures."""
